"""What a frozen decoder block is made of: attention, norm and rotation, for the gradient of inputs.

Shapes: N rows, P tokens kept before, t tokens, K queries, T tokens to be seen, D width, H heads of
queries, G heads of keys, each for H / G, all d wide.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def attend(
    queries: Float[Tensor, "N K H d"],
    keys: Float[Tensor, "N T G d"],
    values: Float[Tensor, "N T G d"],
    *,
    mask: Bool[Tensor, "K T"],
    scale: float,
) -> Float[Tensor, "N K H d"]:
    """Attention under a mask.

    With a mask, kernels that know grouped heads are the slowest. So groups stand in the places of
    rows, where their queries share keys that need not be copied.
    """
    rows, shared = len(queries), queries.shape[2] // keys.shape[2]
    grouped = queries.unflatten(2, (-1, shared)).permute(0, 2, 3, 1, 4).flatten(0, 1)
    once = (one.transpose(1, 2).flatten(0, 1).unsqueeze(1) for one in (keys, values))
    keys, values = (one.expand(-1, shared, -1, -1) for one in once)
    mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    return mixed.unflatten(0, (rows, -1)).permute(0, 3, 1, 2, 4).flatten(2, 3)


def attend_causally(
    queries: Float[Tensor, "N T H d"],
    keys: Float[Tensor, "N T G d"],
    values: Float[Tensor, "N T G d"],
    *,
    scale: float,
) -> Float[Tensor, "N T H d"]:
    """Attention that sees no future, in a square."""
    mixed = F.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        is_causal=True,
        scale=scale,
        enable_gqa=queries.shape[2] > keys.shape[2],
    )
    return mixed.transpose(1, 2)


def rms_norm(hidden: Float[Tensor, "N t D"], norm: Any) -> Float[Tensor, "N t D"]:
    """What the norm gives; the gradient is of `hidden` alone."""
    normed: Tensor = _RMSNorm.apply(  # type: ignore[no-untyped-call]
        hidden, norm.weight, norm.variance_epsilon
    )
    return normed


class _RMSNorm(torch.autograd.Function):
    """Root-mean-square norm with a constant weight, in float32 or better as transformers' own."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        exact = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        square = torch.linalg.vector_norm(exact, dim=-1, keepdim=True).square_()
        scale = square.div_(hidden.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(hidden, weight, scale)
        return weight * (exact * scale).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        hidden, weight, scale = ctx.saved_tensors
        exact = hidden.to(scale.dtype)
        inner = (gradients[0] * weight).to(scale.dtype)
        along = (inner * exact).sum(dim=-1, keepdim=True)
        back = inner.mul_(scale).addcmul_(exact, along * scale**3 / -hidden.shape[-1])
        return back.to(hidden.dtype), None, None


def rotate(
    heads: Float[Tensor, "N t H d"],
    rotation: tuple[Float[Tensor, "1 t 1 d"], Float[Tensor, "1 t 1 d"]],
    before: Float[Tensor, "1 P H d"] | None = None,
) -> Float[Tensor, "N T H d"]:
    """Rotary position embedding, put behind what is `before`, the same for all rows."""
    if before is None:
        before = heads.new_empty(1, 0, *heads.shape[2:])
    rotated: Tensor = _Rotation.apply(heads, *rotation, before)  # type: ignore[no-untyped-call]
    return rotated


class _Rotation(torch.autograd.Function):
    """Halves turn against each other; backward is the transposed map."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cos: Tensor, sin: Tensor, before: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.before = before.shape[1]
        rows, length = heads.shape[:2]
        joined = heads.new_empty(rows, ctx.before + length, *heads.shape[2:])
        joined[:, : ctx.before] = before
        rotated, half = joined[:, ctx.before :], heads.shape[-1] // 2
        torch.mul(heads, cos, out=rotated)
        rotated[..., :half].addcmul_(heads[..., half:], sin[..., :half], value=-1)
        rotated[..., half:].addcmul_(heads[..., :half], sin[..., half:])
        return joined

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, Tensor | None]:
        before = None
        if ctx.needs_input_grad[3]:
            before = gradients[0][:, : ctx.before].sum(dim=0, keepdim=True)
        gradient = gradients[0][:, ctx.before :]
        cos, sin = ctx.saved_tensors
        half = gradient.shape[-1] // 2
        back = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        torch.mul(gradient, cos, out=back)
        back[..., :half].addcmul_(gradient[..., half:], sin[..., half:])
        back[..., half:].addcmul_(gradient[..., :half], sin[..., :half], value=-1)
        return back, None, None, before
