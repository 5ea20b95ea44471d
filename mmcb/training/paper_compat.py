"""The authors' arithmetic to the digit: `--paper-compat`.

Shapes: B examples, T tokens, D width. Layer k is Hugging Face's `hidden_states[k]`.

Source: GraySwanAI/circuit-breakers, `src/lorra_circuit_breaker.py` and `src/cb_train_dataset.py`:

- a request fills 512 positions from the right and its answer 512 from the left; a retain example
  fills 1024 from the right; each is cut at its end;
- the retain loss is a mean over every position, padding included, and over every hidden state: the
  embeddings, which never differ, and the last block's output behind the final norm, too;
- the cosine has no floor under its norms; every real token counts, BOS too;
- every batch is a mean of its own, and the schedule counts batches (calls of the loss).

The authors' code takes no images: here an image's tokens lie outside the 512 and 1024 of its
example.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mmcb.models.loading import LoadedModel
from mmcb.training.batches import Batch, PixelCache, stack_images
from mmcb.training.examples import EncodedExample
from mmcb.training.losses import Hidden, Marked, marked_tokens
from mmcb.training.objective import Attention, Pass, States, StepTotals, pick
from mmcb.training.recipes import Recipe
from mmcb.training.schedule import Weights

HALF = 512
"""Positions of a request, and of its answer."""

WHOLE = 2 * HALF
"""Positions of a retain example."""


class PaperCompat:
    """The objective of the authors' code."""

    def __init__(self, loaded: LoadedModel, recipe: Recipe) -> None:
        """Take the final norm of a model that has `recipe.num_blocks` blocks."""
        self._recipe = recipe
        self._pad_id = int(loaded.tokenizer.pad_token_id or 0)
        self._norm = loaded.decoder.norm

    def aim(self, targets_LD: Tensor | None) -> None:
        """Away from the frozen state: the authors' code has no other target."""
        assert targets_LD is None

    def marked(self, example: EncodedExample) -> int:
        """Tokens of an example that fit its layout: every one of them counts."""
        return sum(len(part) for part in _fitted(example))

    def least_pass(self, examples: Sequence[EncodedExample]) -> int:
        """A whole batch, in its fixed widths."""
        rows = self._recipe.batch_size + self._recipe.retain_batch_size
        return rows * (WHOLE + max(example.image_end for example in examples))

    def deal(
        self,
        batches: Sequence[Sequence[EncodedExample]],
        *,
        processes: int,
        max_tokens: int | None = None,
    ) -> list[list[Pass]]:
        """In one piece: the authors' means are over whole batches. Processes take them in turns."""
        passes = list(enumerate(batches))
        return [passes[process::processes] for process in range(processes)]

    def collate(self, examples: Sequence[EncodedExample], *, pixels: PixelCache) -> Batch:
        """Lay examples out in fixed widths, whatever their lengths."""
        shape = (len(examples), WHOLE + max(example.image_end for example in examples))
        input_ids = torch.full(shape, self._pad_id, dtype=torch.long)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        kinds = torch.tensor([example.kind == "circuit_breaker" for example in examples])
        for row, example in enumerate(examples):
            before, after = _fitted(example)
            middle = shape[1] - (HALF if example.kind == "circuit_breaker" else 0)
            real = slice(middle - len(before), middle + len(after))
            input_ids[row, real] = torch.tensor([*before, *after])
            attention_mask[row, real] = 1
        pixel_values, image_sizes = stack_images(examples, pixels)
        return Batch(
            input_ids=input_ids,
            attention_mask=attention_mask,
            rerouted=(attention_mask.bool() & kinds[:, None]).flatten().nonzero()[:, 0],
            retained=(attention_mask.bool() & ~kinds[:, None]).flatten().nonzero()[:, 0],
            pixel_values=pixel_values,
            image_sizes=image_sizes,
            ids=tuple(example.id for example in examples),
        )

    def attention(self, batch: Batch) -> Attention:
        """Hide the padding on the left, but count it in the positions."""
        positions_T = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
        return Attention(batch.attention_mask, positions_T.expand(batch.input_ids.shape))

    def weights(self, step: int, *, micro: int) -> Weights:
        """Weights of a batch: its number, and not the optimiser step's, is the time t."""
        return self._recipe.schedule.at((step - 1) * self._recipe.accumulation + micro + 1)

    def losses(
        self, adapted: States, frozen: States, batch: Batch, totals: StepTotals
    ) -> dict[str, Float[Tensor, ""]]:
        """The batch's own means, divided by the batches of the step."""
        targets = self._recipe.target_layers
        reroute = reroute_mean(pick(adapted, targets), pick(frozen, targets), batch.rerouted)
        retain = retain_mean(
            self._as_returned(adapted),
            self._as_returned(frozen),
            batch.retained,
            positions=_retain_rows(batch) * batch.input_ids.shape[1],
            # Embeddings, and what else lies below the first adapter, never differs: it adds to the
            # number of hidden states alone.
            num_states=self._recipe.num_blocks + 1,
        )
        return {
            "reroute_loss": reroute / totals.batches,
            "retain_loss": retain / totals.batches,
            "escape_loss": reroute.new_zeros(()),
        }

    def _as_returned(self, states: States) -> list[Float[Tensor, "B T D"]]:
        """Hidden states as transformers returns them: the last one behind the final norm."""
        *others, last = (states[layer] for layer in self._recipe.retain_layers)
        return [*others, self._norm(last)]


def reroute_mean(adapted: Hidden, frozen: Hidden, marked: Marked) -> Float[Tensor, ""]:
    """Mean over marked tokens and layers of relu(cos(adapted, frozen)), without an epsilon.

    Tokens are picked, where the authors multiply by the mask: a NaN in padding, which would poison
    their mean, does not reach this one. Elsewhere the two are the same.
    """
    values = []
    for layers in zip(adapted, frozen, strict=True):
        picked = [marked_tokens(layer, marked) for layer in layers]
        a, b = (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in picked)
        values.append((a * b).sum(-1).relu())
    tokens = values[0].numel()
    return torch.stack(values).sum() / max(1, tokens * len(values))


def retain_mean(
    adapted: Hidden, frozen: Hidden, marked: Marked, *, positions: int, num_states: int
) -> Float[Tensor, ""]:
    """Mean over all `positions` of the retain rows, and over `num_states` hidden states.

    Args:
        adapted: hidden states that may differ, one (B, T, D) tensor each.
        frozen: the same without the adapter.
        marked: (N,), the real tokens of retain rows.
        positions: of these rows, padding included.
        num_states: hidden states to divide by; those that are not given differ by nothing.
    """
    total = torch.stack(
        [
            torch.linalg.vector_norm(marked_tokens(a - b, marked), dim=-1).sum()
            for a, b in zip(adapted, frozen, strict=True)
        ]
    ).sum()
    return total / max(1, positions * num_states)


def _retain_rows(batch: Batch) -> int:
    return len((batch.retained // batch.input_ids.shape[1]).unique())


def _fitted(example: EncodedExample) -> tuple[Sequence[int], Sequence[int]]:
    """What is kept of an example: of request and answer, or of a retain example and nothing."""
    ids, image = example.input_ids, example.image_end
    if example.kind == "retain":
        return ids[: image + WHOLE], ()
    return ids[: min(example.answer_start, image + HALF)], ids[example.answer_start :][:HALF]
