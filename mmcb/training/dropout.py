"""Dropout whose noise belongs to an example: how a step is split into batches changes nothing.

Shapes: B examples, T tokens, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmcb.store import record_id
from mmcb.training.batches import Batch

LAYER_STRIDE = 0x9E3779B97F4A7C15
"""Between the seeds of one row's layers; odd and large, so that no two rows' seeds coincide."""


class RowNoise:
    """The noise of the batch at work: a seed for each row, and where the row's real tokens are.

    A row's noise in a dropout layer is a function of (seed, step, id of the example, layer), drawn
    for the row's real tokens only. So neither padding nor the rest of the batch matters, and a
    block that is run again for its gradient meets the same noise.
    """

    def __init__(self) -> None:
        """Begin without a batch: dropout then draws from torch's own state."""
        self._rows: list[tuple[int, slice]] | None = None
        self._generator = torch.Generator()

    @contextmanager
    def of(self, batch: Batch, *, seed: int, step: int, device: torch.device) -> Iterator[None]:
        """Inside, dropout draws the noise of this batch.

        Args:
            batch: still on the CPU, so that nothing waits for the device.
            seed: seed of the run.
            step: optimiser step.
            device: where the model computes.
        """
        if self._generator.device.type != device.type:
            self._generator = torch.Generator(device)
        self._rows = []
        for example, mask_T in zip(batch.ids, batch.attention_mask, strict=True):
            start, tokens = int(mask_T.argmax()), int(mask_T.sum())
            own = int(record_id("dropout", seed, step, example), 16)
            self._rows.append((own, slice(start, start + tokens)))
        try:
            yield
        finally:
            self._rows = None

    def keep(self, like_BTD: Tensor, *, p: float, layer: int) -> Float[Tensor, "B T D"] | None:
        """1 for entries that stay, 0 for those that go; None without a batch.

        Args:
            like_BTD: what is to be dropped from.
            p: share that goes.
            layer: number of the dropout layer.
        """
        if self._rows is None:
            return None
        keep_BTD = torch.zeros_like(like_BTD)
        for row, (own, real) in enumerate(self._rows):
            self._generator.manual_seed((own + layer * LAYER_STRIDE) % 2**63)
            keep_BTD[row, real].bernoulli_(1 - p, generator=self._generator)
        return keep_BTD


class RowDropout(nn.Module):
    """Dropout that draws from `RowNoise`; what stands in padding is dropped."""

    def __init__(self, p: float, noise: RowNoise, *, layer: int) -> None:
        """Drop with probability `p`, by `noise`, as the `layer`-th of the model's dropouts."""
        super().__init__()
        self._p = p
        self._noise = noise
        self._layer = layer

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Drop entries and scale the others up, in training."""
        if not self.training:
            return x_BTD
        keep_BTD = self._noise.keep(x_BTD, p=self._p, layer=self._layer)
        if keep_BTD is None:
            return nn.functional.dropout(x_BTD, self._p)
        return x_BTD * keep_BTD / (1 - self._p)


def install_row_dropout(model: nn.Module) -> RowNoise:
    """Put `RowDropout` in the place of the adapter's dropout; returns the noise it draws from."""
    noise = RowNoise()
    layers = itertools.count()
    for name, module in list(model.named_modules()):
        if name.endswith("lora_dropout"):
            for adapter, dropout in module.named_children():
                if isinstance(dropout, nn.Dropout):
                    setattr(module, adapter, RowDropout(dropout.p, noise, layer=next(layers)))
    return noise
