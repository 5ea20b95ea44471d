"""The adapter's arithmetic in training: what PEFT computes, in fewer passes over the activations.

PEFT adds `lora_B(lora_A(dropout(x))) * scaling` to a layer's output, operation by operation: four
passes over tensors as large as the activations, and as many backward. On narrow layers these take
as long as the matrices. Here the scale goes into the matrix product, and the sum too.

Shapes: B examples, T tokens, D width in, E width out, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear
from torch import Tensor, nn

from mmcb.training.dropout import RowDropout, RowNoise, install_row_dropout


class Switch:
    """Turns all of a model's adapters off at once.

    PEFT's own `disable_adapter` walks through the model's modules, again and again: for a small
    pass that takes as long as the blocks.
    """

    def __init__(self) -> None:
        """Begin switched on."""
        self.on = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model is the frozen one."""
        self.on = False
        try:
            yield
        finally:
            self.on = True


class FusedLora(Linear):
    """PEFT's linear map with one plain LoRA adapter; its dropout is `RowDropout` or none."""

    switch: Switch

    def forward(self, x: Float[Tensor, "B T D"], *args: Any, **kwargs: Any) -> Tensor:
        """The frozen map of `x` plus the adapter's, (B, T, E), unless the adapter is off."""
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        result_BTE: Tensor = self.base_layer(x, *args, **kwargs)
        if not self.switch.on:
            return result_BTE
        (name,) = self.active_adapters
        keep_BTD, scale = None, self.scaling[name]
        dropout = self.lora_dropout[name]
        if isinstance(dropout, RowDropout) and dropout.training:
            keep_BTD, scale = dropout.keep(x), scale / (1 - dropout.p)
        # The adapter is float32; it computes in the precision of the model.
        a_RD, b_ER = (m[name].weight.to(result_BTE.dtype) for m in (self.lora_A, self.lora_B))
        added: Tensor = _AddLora.apply(  # type: ignore[no-untyped-call]
            result_BTE, x.to(result_BTE.dtype), keep_BTD, a_RD, b_ER, scale
        )
        return added


class Installed(NamedTuple):
    """What steers the adapters of a model from outside."""

    noise: RowNoise
    """What their dropout draws from."""
    switch: Switch
    """Whether they act."""
    dropouts: tuple[RowDropout, ...]
    """The dropouts themselves."""


def install_fused_lora(model: nn.Module) -> Installed:
    """Let the model's adapter compute as `FusedLora`.

    Args:
        model: with one plain LoRA adapter on linear maps; changed in place, its state is not.
    """
    switch = Switch()
    for module in model.modules():
        if isinstance(module, Linear):
            module.__class__ = FusedLora
            cast(FusedLora, module).switch = switch
    noise = install_row_dropout(model)
    dropouts = tuple(module for module in model.modules() if isinstance(module, RowDropout))
    return Installed(noise, switch, dropouts)


class _AddLora(torch.autograd.Function):
    """result + scale * (x * keep) @ a.T @ b.T, and its gradients for all but `keep`."""

    @staticmethod
    def forward(
        ctx: Any,
        result_BTE: Tensor,
        x_BTD: Tensor,
        keep_BTD: Tensor | None,
        a_RD: Tensor,
        b_ER: Tensor,
        scale: float,
    ) -> Tensor:
        kept_BTD = x_BTD if keep_BTD is None else x_BTD * keep_BTD
        inner_NR = kept_BTD.flatten(0, -2) @ a_RD.T
        ctx.save_for_backward(kept_BTD, keep_BTD, inner_NR, a_RD, b_ER)
        ctx.scale = scale
        added_NE = torch.addmm(result_BTE.flatten(0, -2), inner_NR, b_ER.T, alpha=scale)
        return added_NE.view_as(result_BTE)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BTE: Tensor) -> tuple[Tensor | None, ...]:
        kept_BTD, keep_BTD, inner_NR, a_RD, b_ER = ctx.saved_tensors
        grad_NE = grad_BTE.flatten(0, -2)
        grad_inner_NR = grad_NE @ (b_ER * ctx.scale)
        grad_x_BTD = None
        if ctx.needs_input_grad[1]:
            grad_x_BTD = (grad_inner_NR @ a_RD).view_as(kept_BTD)
            if keep_BTD is not None:
                grad_x_BTD.mul_(keep_BTD)
        grad_a_RD = grad_inner_NR.T @ kept_BTD.flatten(0, -2)
        grad_b_ER = (grad_NE.T @ inner_NR).mul_(ctx.scale)
        return grad_BTE, grad_x_BTD, None, grad_a_RD, grad_b_ER, None
