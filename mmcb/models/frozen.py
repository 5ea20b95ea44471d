"""A frozen Llama-like decoder for attacks: the model's own numbers, and no work that they can miss.

An attack on inputs wants logits at a few places at the end, and the gradient of the embeddings. So
here the last block has queries only where logits are wanted, and what stands before all rows is run
once: its keys and values are kept, with their gradient if it has one. Linear layers, with or
without an adapter, are the model's own.

Rows that are short beside what is kept are *folded*: some of them, a group, stand one behind
another in one row, a mask keeps them apart, and the kept keys are there once for all of them.

Shapes: A rows, g of them a group, P tokens kept before, t tokens, K of them at the end, T tokens
that a group's queries may see (P + g t), D width, G heads of keys, d wide.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mmcb.errors import MmcbError
from mmcb.models.frozen_ops import attend, attend_causally, rms_norm, rotate
from mmcb.models.generic import TOLERANCE
from mmcb.models.loading import LoadedModel

KeysValues = tuple[Float[Tensor, "1 P G d"], Float[Tensor, "1 P G d"]]
"""What a block keeps of the tokens before, the same for all rows; keys are rotated."""


class States(NamedTuple):
    """What a pass hands back."""

    last: Float[Tensor, "A K D"]
    """After the final norm, at the last K positions: what the head makes logits of."""
    hidden: dict[int, Float[Tensor, "A t D"]]
    """The hidden states asked for, by Hugging Face's index."""
    kept: list[KeysValues]
    """Per block keys and values so far, for a pass over what follows; empty unless asked for."""


def run_frozen(
    loaded: LoadedModel,
    hidden_AtD: Float[Tensor, "A t D"],
    *,
    last: int,
    kept: Sequence[KeysValues] = (),
    collect: Collection[int] = (),
    keep: bool = False,
) -> States:
    """The decoder's forward pass under its causal mask, differentiable in embeddings alone.

    Args:
        loaded: the model, its weights frozen, adapter active or inside `adapter_disabled()`.
        hidden_AtD: embeddings; padding may stand at the right, where no real token sees it.
        last: K, at how many positions at the end the last states are wanted; 0: nowhere.
        kept: per block, keys and values of the P tokens before all rows, from a pass of one row
            with `keep`; gradients flow into them.
        collect: indices k of `hidden_states[k]`; the last one has the final norm on it.
        keep: hand back keys and values; for a single row.
    """
    blocks = loaded.decoder_layers
    rows, length = hidden_AtD.shape[:2]
    layout = _Layout(loaded.decoder, hidden_AtD, before=kept[0][0].shape[1] if kept else 0)
    everywhere = layout.ask(length)
    at_end = everywhere if len(blocks) in collect else layout.ask(last)
    folded = hidden_AtD.reshape(rows // layout.group, -1, hidden_AtD.shape[2])
    states, keeping = {0: folded}, list[KeysValues]()
    for index, block in enumerate(blocks, start=1):
        normed = rms_norm(folded, block.input_layernorm)
        before = kept[index - 1] if kept else None
        seen = _keys_values(block.self_attn, normed, layout, before)
        if keep:
            keeping.append(seen)
        asking = at_end if index == len(blocks) else everywhere
        folded = _answer(block, folded, normed, seen, layout, asking)
        if index in collect:
            states[index] = folded
    normed = states[len(blocks)] = rms_norm(folded, loaded.decoder.norm)
    ends = normed.reshape(rows, -1, normed.shape[2])
    hidden = {index: states[index].reshape(hidden_AtD.shape) for index in collect}
    return States(ends[:, ends.shape[1] - last :], hidden, keeping)


def check_frozen(loaded: LoadedModel) -> None:
    """Make sure that `run_frozen` does what the decoder's own forward pass does.

    In one piece, and with half of the tokens kept.

    Raises:
        MmcbError: it does not; an attack would optimise against another model.
    """
    # One window is given to all blocks, and these tokens are too few to show that some have none.
    mixed = len(set(getattr(loaded.decoder.config, "layer_types", None) or ())) > 1
    ids = torch.arange(1, 13, device=loaded.device)[None]
    with torch.no_grad():
        own = loaded.decoder(input_ids=ids, use_cache=False).last_hidden_state
        try:
            embedded = loaded.base.get_input_embeddings()(ids)
            whole = run_frozen(loaded, embedded, last=ids.shape[1]).last
            kept = run_frozen(loaded, embedded[:, :6], last=0, keep=True).kept
            rest = run_frozen(loaded, embedded[:, 6:].expand(2, -1, -1), last=2, kept=kept).last
            pairs = (whole, own), (rest, own[:, -2:])
            apart = max(float((a - b).abs().max() / own.abs().max()) for a, b in pairs)
        except (AttributeError, RuntimeError):
            apart = float("nan")
    if mixed or not apart <= TOLERANCE:
        raise MmcbError(
            f"{loaded.name}: its decoder is not like Llama's, so attacks cannot run it",
            hint="docs/add-a-model.md says what run_frozen in mmcb/models/frozen.py expects",
        )


class _Asking(NamedTuple):
    """Where a block's queries stand in a group, and what they see."""

    places: Int64[Tensor, " K"] | None
    """None: every token asks."""
    mask: Bool[Tensor, "K T"] | None
    """None: what is before, and nothing else bounds it."""


class _Layout:
    """Rows in groups behind what is kept: whose token each is, and where in its row it stands."""

    def __init__(self, decoder: Any, hidden_AtD: Float[Tensor, "A t D"], *, before: int) -> None:
        rows, self._length = hidden_AtD.shape[:2]
        self._before = before
        self._window: int | None = getattr(decoder.config, "sliding_window", None)
        self.group = _group(rows, self._length, before)
        count = torch.arange(before + self._length, device=hidden_AtD.device)
        own = count[before:].repeat(self.group)
        self._positions_T = torch.cat([count[:before], own])
        self._rows_T = torch.cat([torch.full_like(count[:before], -1), self._row_of(own)])
        cos, sin = decoder.rotary_emb(hidden_AtD, position_ids=own[None])
        self.rotation: tuple[Tensor, Tensor] = cos.unsqueeze(2), sin.unsqueeze(2)

    def ask(self, last: int) -> _Asking:
        """Queries at the last tokens of every row."""
        total, device = len(self._positions_T), self._positions_T.device
        places = torch.arange(total - self._before, device=device).view(self.group, self._length)
        places = places[:, self._length - last :].flatten()
        wanted = None if last == self._length else places
        # Kernels skip the future by themselves only in a square, and a mask costs more: tokens
        # without queries get some that are thrown away, unless they are most.
        unbounded = self._window is None or total <= self._window
        if self.group == 1 and unbounded and total - last <= last:
            return _Asking(wanted, None)
        at = places + self._before
        ahead_KT = self._positions_T[at, None] - self._positions_T
        mask = (self._rows_T == self._rows_T[at, None]) | (self._rows_T == -1)
        mask &= ahead_KT >= 0
        if self._window is not None:
            mask &= ahead_KT < self._window
        return _Asking(wanted, mask)

    def _row_of(self, own: Int64[Tensor, " gt"]) -> Int64[Tensor, " gt"]:
        return torch.arange(self.group, device=own.device).repeat_interleave(self._length)


def _group(rows: int, length: int, before: int) -> int:
    """How many rows to fold: the most that divide them and are no longer than what is kept.

    Longer ones would see mostly each other, behind the mask.
    """
    fitting = (size for size in range(rows, 1, -1) if rows % size == 0 and size * length <= before)
    return next(fitting, 1)


def _keys_values(
    attention: Any,
    normed: Float[Tensor, "N gt D"],
    layout: _Layout,
    kept: KeysValues | None,
) -> tuple[Float[Tensor, "N T G d"], Float[Tensor, "N T G d"]]:
    """Keys and values of a group, behind what is kept."""
    keys = _heads(attention.k_proj(normed), attention)
    values = _heads(attention.v_proj(normed), attention)
    if kept is None:
        return rotate(keys, layout.rotation), values
    old = kept[1].expand(len(values), -1, -1, -1)
    return rotate(keys, layout.rotation, kept[0]), torch.cat([old, values], dim=1)


def _answer(
    block: Any,
    hidden: Float[Tensor, "N gt D"],
    normed: Float[Tensor, "N gt D"],
    seen: tuple[Tensor, Tensor],
    layout: _Layout,
    asking: _Asking,
) -> Float[Tensor, "N gK D"]:
    """A block's output where it is asked for."""
    attention, (keys, values), rotation = block.self_attn, seen, layout.rotation
    if asking.places is not None:
        at = asking.places
        if len(at) == 0:
            return hidden[:, :0]
        normed, hidden = normed.index_select(1, at), hidden.index_select(1, at)
        cos, sin = (one.index_select(1, at) for one in layout.rotation)
        rotation = cos, sin
    queries = _heads(attention.q_proj(normed), attention)
    scale = attention.scaling
    if asking.mask is None:
        filling = queries.new_zeros(1, keys.shape[1] - queries.shape[1], *queries.shape[2:])
        queries = rotate(queries, rotation, filling)
        mixed = attend_causally(queries, keys, values, scale=scale)[:, filling.shape[1] :]
    else:
        mixed = attend(rotate(queries, rotation), keys, values, mask=asking.mask, scale=scale)
    hidden = hidden + attention.o_proj(mixed.flatten(2))
    mlp: Tensor = block.mlp(rms_norm(hidden, block.post_attention_layernorm))
    return hidden + mlp


def _heads(projected: Float[Tensor, "N t HD"], attention: Any) -> Float[Tensor, "N t H d"]:
    return projected.unflatten(-1, (-1, attention.head_dim))
