"""Dropout whose noise belongs to an example: how a step is split into batches changes nothing.

The noise on circuit-breaker embeddings (`embedding_noise.py`) is drawn here too. Both are hashed
from counters (the finaliser of MurmurHash3, twice keyed) instead of drawn by a generator: all rows
at once, the same on every device, and far cheaper than a generator that is seeded anew for each row
and draws a number for each entry.

Shapes: B examples, T tokens, D width, W words of noise for a token: one for two entries.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmcb.store import record_id
from mmcb.training.batches import Batch

LOTS = 2
"""Entries that share a word of 32 bits: p is held to one part in 65,536."""

WORD, LAYER, LAYER_KEY = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
"""Odd strides of the counter from word to word, and of both keys from layer to layer."""


class RowNoise:
    """The noise of the batch at work: two keys for each row, and where the row's tokens begin.

    A row's noise in a dropout layer is a function of (seed, step, id of the example, layer) and of
    the place, counted from the row's first real token. So neither padding nor the rest of the batch
    matters, and a block that is run again for its gradient meets the same noise.
    """

    def __init__(self) -> None:
        """Begin without a batch: dropout then draws from torch's own state."""
        self._rows_B3: Int[Tensor, "B 3"] | None = None
        self._counters: dict[int, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def of(self, batch: Batch, *, seed: int, step: int, device: torch.device) -> Iterator[None]:
        """Inside, dropout draws the noise of this batch.

        Args:
            batch: still on the CPU, so that nothing waits for the device.
            seed: seed of the run.
            step: optimiser step.
            device: where the model computes.
        """
        rows = []
        for example, mask_T in zip(batch.ids, batch.attention_mask, strict=True):
            own = int(record_id("dropout", seed, step, example), 16)
            rows.append((_signed(own), _signed(own >> 32), int(mask_T.argmax())))
        keys_B3 = torch.tensor(rows, dtype=torch.int32)
        self._rows_B3 = keys_B3.to(device, non_blocking=True)
        try:
            yield
        finally:
            self._rows_B3 = None
            self._counters.clear()

    def keep(self, like_BTD: Tensor, *, p: float, layer: int) -> Float[Tensor, "B T D"] | None:
        """1 for entries that stay, 0 for those that go; None without a batch.

        Args:
            like_BTD: what is to be dropped from.
            p: share that goes.
            layer: number of the dropout layer.
        """
        lots_BTD = self.lots(like_BTD, layer=layer)
        if lots_BTD is None:
            return None
        # A comparison that makes booleans is several times slower on a CPU.
        return lots_BTD.ge_(round(p * 2**16) - 2**15).to(like_BTD.dtype)

    def lots(self, like_BTD: Tensor, *, layer: int) -> Float[Tensor, "B T D"] | None:
        """Whole numbers from -2^15 to 2^15 - 1, evenly drawn; None without a batch.

        Args:
            like_BTD: what is to have one for each entry.
            layer: number of what draws; dropout layers count from 0.
        """
        if self._rows_B3 is None:
            return None
        width = like_BTD.shape[-1]
        if width not in self._counters:
            self._counters[width] = self._counter(like_BTD.shape[1], words=-(-width // LOTS))
        token_BT1, place_W = self._counters[width]
        word_BTW = token_BT1 + (place_W + _signed(layer * LAYER))
        _hash(word_BTW, self._rows_B3[:, 1, None, None] + _signed(layer * LAYER_KEY))
        # In float32, where every lot is exact.
        return word_BTW.view(torch.int16)[..., :width].to(torch.float32)

    def _counter(
        self, tokens: int, *, words: int
    ) -> tuple[Int[Tensor, "B T 1"], Int[Tensor, " W"]]:
        """Two parts of a number for each word: from its row's key on, in even strides."""
        assert self._rows_B3 is not None
        first, _, begin = self._rows_B3[:, :, None, None].unbind(1)
        count = torch.arange(max(tokens, words), dtype=torch.int32, device=first.device)
        token_BT1 = first + (count[:tokens, None] - begin) * _signed(words * WORD)
        return token_BT1, count[:words] * _signed(WORD)


def _hash(word: Int[Tensor, "B T W"], key: Int[Tensor, "B 1 1"]) -> None:
    """Hash words in place; 32-bit arithmetic wraps around."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        word.bitwise_xor_(_shifted(word, shift)).mul_(_signed(factor)).add_(key)
    word.bitwise_xor_(_shifted(word, 16))


def _shifted(word: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; torch's own repeats the sign."""
    return (word >> bits).bitwise_and_(2 ** (32 - bits) - 1)


def _signed(value: int) -> int:
    """The lowest 32 bits as a signed number."""
    return (value + 2**31) % 2**32 - 2**31


class RowDropout(nn.Module):
    """Dropout that draws from `RowNoise`."""

    def __init__(self, p: float, noise: RowNoise, *, layer: int) -> None:
        """Drop with probability `p`, by `noise`, as the `layer`-th of the model's dropouts."""
        super().__init__()
        self.p = p
        self._noise = noise
        self._layer = layer

    def keep(self, like_BTD: Tensor) -> Float[Tensor, "B T D"]:
        """1 for entries that stay, 0 for those that go; without a batch, torch's own noise."""
        keep_BTD = self._noise.keep(like_BTD, p=self.p, layer=self._layer)
        return torch.empty_like(like_BTD).bernoulli_(1 - self.p) if keep_BTD is None else keep_BTD

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Drop entries and scale the others up, in training."""
        return x_BTD * self.keep(x_BTD) / (1 - self.p) if self.training else x_BTD


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
