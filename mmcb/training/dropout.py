"""Dropout whose noise belongs to an example: how a step is split into batches changes nothing.

Shapes: B examples, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmcb.store import record_id
from mmcb.training.batches import Batch


class RowNoise:
    """The noise of the batch at work: a generator for each row, and where its real tokens are.

    A row's generator is seeded by (seed, step, id of the example) and drawn from once for each
    dropout, for the row's real tokens only. So neither padding nor the rest of the batch matters.
    """

    def __init__(self) -> None:
        """Begin without a batch: dropout then draws from torch's own state."""
        self.rows: list[tuple[torch.Generator, slice]] | None = None

    @contextmanager
    def of(self, batch: Batch, *, seed: int, step: int, device: torch.device) -> Iterator[None]:
        """Inside, dropout draws the noise of this batch.

        Args:
            batch: still on the CPU, so that nothing waits for the device.
            seed: seed of the run.
            step: optimiser step.
            device: where the model computes.
        """
        self.rows = []
        for example, mask_T in zip(batch.ids, batch.attention_mask, strict=True):
            generator = torch.Generator(device)
            generator.manual_seed(int(record_id("dropout", seed, step, example), 16) % 2**63)
            start, tokens = int(mask_T.argmax()), int(mask_T.sum())
            self.rows.append((generator, slice(start, start + tokens)))
        try:
            yield
        finally:
            self.rows = None


class RowDropout(nn.Module):
    """Dropout that draws from `RowNoise`; what stands in padding is dropped."""

    def __init__(self, p: float, noise: RowNoise) -> None:
        """Drop with probability `p`, by `noise`."""
        super().__init__()
        self._p = p
        self._noise = noise

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Drop entries and scale the others up, in training."""
        if not self.training:
            return x_BTD
        if self._noise.rows is None:
            return nn.functional.dropout(x_BTD, self._p)
        keep_BTD = torch.zeros_like(x_BTD)
        for row, (generator, real) in enumerate(self._noise.rows):
            keep_BTD[row, real].bernoulli_(1 - self._p, generator=generator)
        return x_BTD * keep_BTD / (1 - self._p)


def install_row_dropout(model: nn.Module) -> RowNoise:
    """Put `RowDropout` in the place of the adapter's dropout; returns the noise it draws from."""
    noise = RowNoise()
    for name, module in list(model.named_modules()):
        if name.endswith("lora_dropout"):
            for adapter, dropout in module.named_children():
                if isinstance(dropout, nn.Dropout):
                    setattr(module, adapter, RowDropout(dropout.p, noise))
    return noise
