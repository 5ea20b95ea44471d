"""Teacher forcing: how likely is each row's target after its prompt, given embeddings of both?

The level below every objective that aims at words. What does not depend on the attack is done
once: prompts are padded and encoded, and the tokens that stand before everything the attacker may
touch go through the decoder a single time (their keys and values are kept). What all rows have in
common behind those, such as one picture for all of them, goes through it once a step, with its
gradient: under a causal mask no later token changes it. A step then costs the blocks over the
rest, and the vocabulary projection at the target's positions only.

Shapes: B rows, A of them, T tokens, c common ones after the fixed ones, t tokens after both, v from
the first watched one on, K positions with logits, W words, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mmcb.models.frozen import KeysValues, check_frozen, run_frozen
from mmcb.models.loading import LoadedModel

IGNORED = -100
"""Label of a position that is not part of a target."""


def freeze(loaded: LoadedModel) -> None:
    """Evaluation mode, and no gradients for any weight: only inputs are optimised."""
    loaded.model.eval()
    loaded.model.requires_grad_(False)


@dataclass(frozen=True, slots=True)
class Forced:
    """What a model says at the targets of some rows."""

    logits: Float[Tensor, "A K W"]
    labels: Int64[Tensor, "A K"]
    hidden: dict[int, Float[Tensor, "A v D"]]
    """The hidden states asked for, by Hugging Face's index, in the places of `watched`."""

    def cross_entropy(self) -> Float[Tensor, " A"]:
        """Mean over each row's target tokens."""
        exact = self.logits.to(torch.promote_types(self.logits.dtype, torch.float32))
        losses_AK = F.cross_entropy(
            exact.transpose(1, 2),
            self.labels,
            ignore_index=IGNORED,
            reduction="none",
        )
        return losses_AK.sum(dim=1) / (self.labels != IGNORED).sum(dim=1)

    def reached(self) -> Bool[Tensor, " A"]:
        """Whether greedy decoding would write the row's whole target."""
        right = self.logits.argmax(dim=-1) == self.labels
        return (right | (self.labels == IGNORED)).all(dim=1)


class Embedded(NamedTuple):
    """Embeddings of some rows' tokens after the fixed ones."""

    own: Float[Tensor, "A t D"]
    """Of each row's own tokens."""
    common: Float[Tensor, "1 c D"] | None = None
    """Of those before, the same for all rows; None: `own` begins right after the fixed ones."""


class TargetTokens:
    """Prompts with their targets, as one padded batch.

    Args:
        loaded: the model under attack; it is frozen here.
        input_ids: per row the prompt (image tokens expanded) and the target.
        target_starts: per row the index of the target's first token.
        fixed_until: per row the index of the first token that the attacker may touch; what all
            rows have in common before it is computed once.
        watched_from: per row the index of the first token whose hidden states matter, none of them
            fixed (default: all that are not fixed).
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        input_ids: Sequence[Sequence[int]],
        target_starts: Sequence[int],
        fixed_until: Sequence[int],
        watched_from: Sequence[int] | None = None,
    ) -> None:
        freeze(loaded)
        check_frozen(loaded)
        self.loaded = loaded
        self._lengths = [len(ids) for ids in input_ids]
        self._starts = list(target_starts)
        # The token before the first target stays out: its logits are wanted at every step.
        self.num_common = min(_common(input_ids), *(start - 1 for start in target_starts))
        """How many leading tokens all rows share."""
        self.num_fixed = min(self.num_common, *fixed_until)
        """How many of them the attacker cannot touch."""
        self._watched = list(watched_from or [self.num_fixed] * len(input_ids))
        # Padding stands on the right: under a causal mask nothing before it can see it, hence no
        # attention mask is needed and every prompt keeps its own positions.
        padding = loaded.tokenizer.pad_token_id or 0
        ids_BT = torch.full((len(input_ids), max(self._lengths)), padding)
        labels_BT = torch.full_like(ids_BT, IGNORED)
        for row, (ids, start) in enumerate(zip(input_ids, target_starts, strict=True)):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
            labels_BT[row, start : len(ids)] = ids_BT[row, start : len(ids)]
        self._ids_BT = ids_BT.to(loaded.device)
        self._labels_BT = labels_BT.to(loaded.device)
        self._fixed: dict[bool, list[KeysValues]] = {}

    def ids(self, rows: Int64[Tensor, " A"], *, start: int) -> Int64[Tensor, "A t"]:
        """Token ids of some rows from `start` on, cut to the longest of them."""
        return self._ids_BT[rows, start : self._window(rows)[1]]

    def common_ids(self) -> Int64[Tensor, "1 c"]:
        """Token ids after the fixed ones that all rows have in common."""
        return self._ids_BT[:1, self.num_fixed : self.num_common]

    def labels(self, rows: Int64[Tensor, " A"]) -> Int64[Tensor, "A K"]:
        """Target tokens of some rows, from the earliest target on."""
        first, length = self._window(rows)
        return self._labels_BT[rows, first:length]

    def predicting(self, rows: Int64[Tensor, " A"]) -> Int64[Tensor, " K"]:
        """Positions whose logits predict `labels`: those at t - 1 predict token t."""
        first, length = self._window(rows)
        return torch.arange(first - 1, length - 1, device=self.loaded.device)

    def watched(self, rows: Int64[Tensor, " A"]) -> Bool[Tensor, "A v"]:
        """Which tokens are real and watched, in the places of a pass's hidden states."""
        at = torch.arange(min(self._watched), self._window(rows)[1])
        listed = rows.tolist()
        begin = torch.tensor([self._watched[row] for row in listed])[:, None]
        end = torch.tensor([self._lengths[row] for row in listed])[:, None]
        return ((at >= begin) & (at < end)).to(self.loaded.device)

    def run(
        self, embedded: Embedded, rows: Int64[Tensor, " A"], *, layers: Collection[int] = ()
    ) -> Forced:
        """The model's own forward pass over some rows.

        Args:
            embedded: embeddings in the model's precision: of `ids(rows, start=num_fixed)`, or of
                `common_ids()` and of `ids(rows, start=num_common)`.
            rows: which rows they are.
            layers: `hidden_states` indices to hand back.
        """
        first, length = self._window(rows)
        # Nothing is asked after the last target token: it goes in for its hidden states alone.
        end = length if layers else length - 1
        begin, kept, before = self._past(embedded, layers)
        states = run_frozen(
            self.loaded,
            embedded.own[:, : end - begin],
            last=end - (first - 1),
            kept=kept,
            collect=layers,
        )
        skipped = max(0, min(self._watched) - begin)
        hidden = {layer: state[:, skipped:] for layer, state in states.hidden.items()}
        for layer, state in before.items():
            parts = [state.expand(len(hidden[layer]), -1, -1), hidden[layer]]
            hidden[layer] = torch.cat(parts, dim=1)
        head = self.loaded.base.get_output_embeddings()
        return Forced(head(states.last[:, : length - first]), self.labels(rows), hidden)

    def _past(
        self, embedded: Embedded, layers: Collection[int]
    ) -> tuple[int, list[KeysValues], dict[int, Float[Tensor, "1 u D"]]]:
        """How many tokens stand before the own ones, what is kept of them, and what is watched."""
        if embedded.common is None:
            return self.num_fixed, self._kept(), {}
        since = min(self._watched)
        wanted = layers if since < self.num_common else ()
        states = run_frozen(
            self.loaded, embedded.common, last=0, kept=self._kept(), collect=wanted, keep=True
        )
        hidden = {
            layer: state[:, since - self.num_fixed :] for layer, state in states.hidden.items()
        }
        return self.num_common, states.kept, hidden

    def _window(self, rows: Int64[Tensor, " A"]) -> tuple[int, int]:
        """Where the earliest target begins and the longest row ends."""
        listed = rows.tolist()
        first = min(self._starts[row] for row in listed)
        return first, max(self._lengths[row] for row in listed)

    @torch.no_grad()
    def _kept(self) -> list[KeysValues]:
        """Keys and values of the fixed tokens, per block; none if there are no such tokens."""
        if self.num_fixed == 0:
            return []
        adapted = adapter_is_on(self.loaded.model)
        if adapted not in self._fixed:
            embed = self.loaded.base.get_input_embeddings()
            embeddings = embed(self._ids_BT[:1, : self.num_fixed])
            self._fixed[adapted] = run_frozen(self.loaded, embeddings, last=0, keep=True).kept
        return self._fixed[adapted]


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share."""
    shortest = min(len(row) for row in rows)
    for index in range(shortest):
        if any(row[index] != rows[0][index] for row in rows):
            return index
    return shortest


def adapter_is_on(model: Any) -> bool:
    """Whether an adapter takes part: its keys and values are not the base's."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer = next((m for m in model.modules() if isinstance(m, BaseTunerLayer)), None)
    return layer is not None and not layer.disable_adapters
