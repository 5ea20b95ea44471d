"""Teacher forcing with a slot behind every request: what embedding attacks and token search share.

Everything before a row's slot (template, picture, request) goes through the decoder once, and its
keys and values are kept; a step costs the slot, the rest of the turn, and the target.

Shapes: B rows, A of them (with repetition, for candidates), P tokens before the slot (padded on the
left), N in the slot, t from the slot on, K positions with logits, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mmcb.attacks.core import Losses, Moment
from mmcb.attacks.forcing import IGNORED, Forced, adapter_is_on, freeze
from mmcb.generation.images import image_size, open_image
from mmcb.models.hidden import embed_inputs, position_ids_of, run_blocks
from mmcb.models.loading import LoadedModel
from mmcb.models.slots import Slotted, encode_slotted
from mmcb.records import Message


@dataclass(frozen=True, slots=True)
class SlotRow:
    """A request with a slot behind it, and what the answer is to begin with."""

    prompt: str
    target: str
    image: Path | None = None


class SlottedTargets:
    """Requests with N free positions behind each, and their targets, as one batch.

    Args:
        loaded: the model under attack; it is frozen here.
        rows: the requests; their pictures go through the stock processor.
        num_free: N.
    """

    def __init__(self, loaded: LoadedModel, rows: Sequence[SlotRow], *, num_free: int) -> None:
        freeze(loaded)
        self.loaded = loaded
        self.num_free = num_free
        self._rows = list(rows)
        self.slotted = [_encode(loaded, row) for row in rows]
        self._tails, self._labels_Bt = _tails(loaded, self.slotted, num_free)
        self._first = num_free + min(len(one.after) for one in self.slotted)
        self._kept: dict[bool, list[tuple[Tensor, Tensor]]] = {}
        longest = max(len(one.before) for one in self.slotted)
        pads = torch.tensor([longest - len(one.before) for one in self.slotted])
        self._mask_BP = (torch.arange(longest) >= pads[:, None]).long().to(loaded.device)

    def run(self, free: Float[Tensor, "A N D"], rows: Int64[Tensor, " A"]) -> Forced:
        """The model's own forward pass with `free` in the slots of `rows`.

        Args:
            free: the vectors; gradients flow to them.
            rows: which rows they belong to; a row may come many times.
        """
        from transformers import DynamicCache

        config = self.loaded.decoder.config
        tails = self._tails[rows].to(free.device)
        embed = self.loaded.base.get_input_embeddings()
        rest = embed(tails)
        embeddings = torch.cat([free.to(rest), rest], dim=1)
        before = self._mask_BP[rows]
        mask = torch.cat([before, before.new_ones(embeddings.shape[:2])], dim=1)
        kept = [(keys[rows], values[rows]) for keys, values in self._keep()]
        length = embeddings.shape[1]
        logits = self.loaded.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=position_ids_of(mask)[:, -length:],
            past_key_values=DynamicCache(kept, config=config),
            use_cache=False,
            logits_to_keep=torch.arange(self._first - 1, length - 1, device=free.device),
        ).logits
        return Forced(logits, self._labels_Bt[rows][:, self._first :], {})

    @torch.no_grad()
    def last_states(self, layer: int) -> Float[Tensor, "B D"]:
        """`hidden_states[layer]` at every row's last token, for rows without slot and target."""
        embed = self.loaded.base.get_input_embeddings()
        states: list[Tensor] = []
        before = self._before()
        for row, one in enumerate(self.slotted):
            head = before[row, before.shape[1] - len(one.before) :]
            tail = embed(torch.tensor(one.after, dtype=torch.int64, device=head.device))
            hidden = torch.cat([head, tail.to(head)])[None]
            found = run_blocks(
                self.loaded, hidden, None, None, start=0, stop=layer, collect={layer}
            )
            states.append(found[layer][0, -1])
        return torch.stack(states)

    def embed(self, ids: Int64[Tensor, "A N"]) -> Float[Tensor, "A N D"]:
        """Embeddings of tokens for the slots."""
        embedded: Tensor = self.loaded.base.get_input_embeddings()(ids.to(self.loaded.device))
        return embedded

    def _keep(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values before the slots, for the adapter's present state."""
        from transformers import DynamicCache

        adapted = adapter_is_on(self.loaded.model)
        if adapted not in self._kept:
            cache: Any = DynamicCache(config=self.loaded.decoder.config)
            with torch.no_grad():
                self.loaded.decoder(
                    inputs_embeds=self._before(),
                    attention_mask=self._mask_BP,
                    position_ids=position_ids_of(self._mask_BP),
                    past_key_values=cache,
                    use_cache=True,
                )
            self._kept[adapted] = [(layer.keys, layer.values) for layer in cache.layers]
        return self._kept[adapted]

    def _before(self) -> Float[Tensor, "B P D"]:
        """Embeddings before the slots, pictures in place, padded on the left."""
        embedded = [
            _embed(self.loaded, row, one) for row, one in zip(self._rows, self.slotted, strict=True)
        ]
        longest = self._mask_BP.shape[1]
        width = embedded[0].shape[1]
        return torch.stack(
            [torch.cat([one.new_zeros(longest - len(one), width), one]) for one in embedded]
        )


class SlottedObjective:
    """Mean cross-entropy of each row's target, for vectors in its slot."""

    passes = 1

    def __init__(self, targets: SlottedTargets) -> None:
        self.targets = targets

    def __call__(
        self, candidates: Float[Tensor, "A N D"], rows: Int64[Tensor, " A"], moment: Moment
    ) -> Losses:
        """Losses of the vectors, differentiable in them."""
        losses = self.targets.run(candidates, rows).cross_entropy()
        return Losses(losses, losses)


def _encode(loaded: LoadedModel, row: SlotRow) -> Slotted:
    size = None if row.image is None else image_size(row.image)
    message = Message(role="user", content=row.prompt)
    return encode_slotted(loaded, (message,), image_size=size, prefill=row.target)


def _tails(
    loaded: LoadedModel, rows: Sequence[Slotted], num_free: int
) -> tuple[Int64[Tensor, "B u"], Int64[Tensor, "B t"]]:
    """Tokens after the slots, padded on the right, and the labels from the slot's start on."""
    tails = [[*one.after, *one.target] for one in rows]
    longest = max(map(len, tails))
    padding = loaded.tokenizer.pad_token_id or 0
    ids = torch.full((len(rows), longest), padding)
    labels = torch.full((len(rows), num_free + longest), IGNORED)
    for row, (one, tail) in enumerate(zip(rows, tails, strict=True)):
        ids[row, : len(tail)] = torch.tensor(tail)
        begin = num_free + len(one.after)
        labels[row, begin : num_free + len(tail)] = torch.tensor(one.target)
    return ids.to(loaded.device), labels.to(loaded.device)


@torch.no_grad()
def _embed(loaded: LoadedModel, row: SlotRow, one: Slotted) -> Float[Tensor, "P D"]:
    """Embeddings of one row's tokens before the slot; the picture as a user's would be seen."""
    batch = {"input_ids": torch.tensor([one.before], device=loaded.device)}
    if row.image is not None:
        picture = open_image(row.image)
        views = loaded.processor.image_processor(images=[picture], return_tensors="pt")
        sizes = views.get("image_sizes", torch.tensor([[picture.height, picture.width]]))
        pixels = views["pixel_values"].to(loaded.device, loaded.dtype)
        batch |= {"pixel_values": pixels, "image_sizes": sizes.to(loaded.device)}
    embedded: Tensor = embed_inputs(loaded, batch)
    return embedded[0]
