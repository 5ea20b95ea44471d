"""The loss of a target as a function of the tokens in a slot, and the tokens allowed there.

Shapes: N tokens, W words, D width, C candidates.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mmcb.attacks.slotted import SlottedTargets
from mmcb.models.loading import LoadedModel


class SlotLoss:
    """A `TokenLoss` for one request; what stands before the slot is computed once.

    Args:
        targets: one request with its target.
        batch_size: candidates at once; halved by itself when the memory does not do.
    """

    def __init__(self, targets: SlottedTargets, *, batch_size: int) -> None:
        self._targets = targets
        self._size = batch_size

    def gradient(self, ids: Int64[Tensor, " N"]) -> tuple[float, Float[Tensor, "N W"]]:
        """The loss, and its slope in every word's share (the one-hot gradient)."""
        vectors = self._targets.embed(ids[None]).detach().requires_grad_(True)
        rows = torch.zeros(1, dtype=torch.int64, device=vectors.device)
        loss = self._targets.run(vectors, rows).cross_entropy()[0]
        slope = torch.autograd.grad(loss, vectors)[0][0]
        words: Tensor = self._targets.loaded.base.get_input_embeddings().weight
        return float(loss.detach()), slope @ words.detach().T.to(slope)

    @torch.no_grad()
    def losses(self, candidates: Int64[Tensor, "C N"]) -> Float[Tensor, " C"]:
        """The loss of each candidate."""
        found: list[Tensor] = []
        rest = candidates
        while len(rest):
            try:
                found.append(self._chunk(rest[: self._size]))
            except torch.OutOfMemoryError:
                if self._size == 1:
                    raise
                self._size = max(1, self._size // 2)
                continue
            rest = rest[self._size :]
        return torch.cat(found)

    def _chunk(self, candidates: Int64[Tensor, "C N"]) -> Float[Tensor, " C"]:
        vectors = self._targets.embed(candidates)
        rows = torch.zeros(len(candidates), dtype=torch.int64, device=vectors.device)
        return self._targets.run(vectors, rows).cross_entropy()


def allowed_tokens(loaded: LoadedModel, *, ascii_only: bool) -> Bool[Tensor, " W"]:
    """Words that may stand in a slot: no special ones, none that is no text of its own."""
    tokenizer = loaded.tokenizer
    count = loaded.base.get_input_embeddings().weight.shape[0]
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    texts = tokenizer.batch_decode([[token] for token in range(min(count, len(tokenizer)))])
    allowed = torch.zeros(count, dtype=torch.bool)
    for token, text in enumerate(texts):
        readable = text.isascii() and text.isprintable() if ascii_only else "\ufffd" not in text
        allowed[token] = token not in special and bool(text.strip()) and readable
    return allowed.to(loaded.device)
