"""A frozen Llama-like decoder for attacks: the model's own numbers, and no work that they can miss.

An attack on inputs wants logits at a few places at the end, and the gradient of the embeddings. So
here the last block has queries only where logits are wanted, kept keys and values need no mask, and
norms and rotations know their own gradient, of the input alone. Linear layers, with or without an
adapter, are the model's own.

Shapes: A rows, P tokens kept before, t tokens, K of them at the end, D width, H heads of d.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mmcb.errors import MmcbError
from mmcb.models.generic import TOLERANCE
from mmcb.models.loading import LoadedModel

KeysValues = tuple[Float[Tensor, "1 H P d"], Float[Tensor, "1 H P d"]]
"""What a block keeps of the tokens before, the same for all rows; as in transformers' cache."""


class States(NamedTuple):
    """What a pass hands back."""

    last: Float[Tensor, "A K D"]
    """After the final norm, at the last K positions: what the head makes logits of."""
    hidden: dict[int, Float[Tensor, "A t D"]]
    """The hidden states asked for, by Hugging Face's index."""


def run_frozen(
    loaded: LoadedModel,
    hidden_AtD: Float[Tensor, "A t D"],
    *,
    last: int,
    kept: Sequence[KeysValues] = (),
    collect: Collection[int] = (),
) -> States:
    """The decoder's forward pass under its causal mask, differentiable in `hidden_AtD` alone.

    Args:
        loaded: the model, its weights frozen, adapter active or inside `adapter_disabled()`.
        hidden_AtD: embeddings; padding may stand at the right, where no real token sees it.
        last: K, at how many positions at the end the last states are wanted.
        kept: per block, keys and values of the P tokens before.
        collect: indices k of `hidden_states[k]`; the last one has the final norm on it.
    """
    decoder, blocks = loaded.decoder, loaded.decoder_layers
    before = kept[0][0].shape[2] if kept else 0
    length = hidden_AtD.shape[1]
    positions = torch.arange(before, before + length, device=hidden_AtD.device)[None]
    cos, sin = decoder.rotary_emb(hidden_AtD, position_ids=positions)
    rotation = cos.unsqueeze(2), sin.unsqueeze(2)
    window = getattr(decoder.config, "sliding_window", None)
    hidden = {0: hidden_AtD}
    for index, block in enumerate(blocks, start=1):
        whole = index < len(blocks) or index in collect
        hidden_AtD = _block(
            block,
            hidden_AtD,
            rotation,
            kept[index - 1] if kept else None,
            window=window,
            last=length if whole else last,
        )
        hidden[index] = hidden_AtD
    normed = hidden[len(blocks)] = _rms_norm(hidden_AtD, decoder.norm)
    return States(normed[:, -last:], {index: hidden[index] for index in collect})


def check_frozen(loaded: LoadedModel) -> None:
    """Make sure that `run_frozen` does what the decoder's own forward pass does.

    Raises:
        MmcbError: it does not; an attack would optimise against another model.
    """
    ids = torch.arange(1, 13, device=loaded.device)[None]
    with torch.no_grad():
        own = loaded.decoder(input_ids=ids, use_cache=False).last_hidden_state
        try:
            embedded = loaded.base.get_input_embeddings()(ids)
            ours = run_frozen(loaded, embedded, last=ids.shape[1]).last
            apart = float((ours - own).abs().max() / own.abs().max())
        except (AttributeError, RuntimeError):
            apart = float("nan")
    if not apart <= TOLERANCE:
        raise MmcbError(
            f"{loaded.name}: its decoder is not like Llama's, so attacks cannot run it",
            hint="docs/add-a-model.md says what run_frozen in mmcb/models/frozen.py expects",
        )


def _block(
    block: Any,
    hidden_AtD: Float[Tensor, "A t D"],
    rotation: tuple[Tensor, Tensor],
    kept: KeysValues | None,
    *,
    window: int | None,
    last: int,
) -> Tensor:
    """One block's output at the last positions."""
    attention = block.self_attn
    cos, sin = rotation
    normed = _rms_norm(hidden_AtD, block.input_layernorm)
    keys = _heads(attention.k_proj(normed), attention)
    values = _heads(attention.v_proj(normed), attention)
    before = None if kept is None else kept[0].transpose(1, 2)
    keys = _rotate(keys, cos, sin, before)
    if kept is not None:
        old = kept[1].transpose(1, 2).expand(len(values), -1, -1, -1)
        values = torch.cat([old, values], dim=1)
    normed, hidden_AtD = normed[:, -last:], hidden_AtD[:, -last:]
    queries = _heads(attention.q_proj(normed), attention)
    cos, sin = cos[:, -last:], sin[:, -last:]
    # Kernels skip the future by themselves only in a square, and a mask costs more: tokens without
    # queries get some that are thrown away, unless they are most, as in the last block.
    ahead = keys.shape[1] - last
    if ahead <= last and (window is None or keys.shape[1] <= window):
        filling = queries.new_zeros(1, ahead, *queries.shape[2:])
        queries = _rotate(queries, cos, sin, filling)
        mixed = _attend(queries, keys, values, scale=attention.scaling)[:, ahead:]
    else:
        queries = _rotate(queries, cos, sin)
        mask = _mask(queries, keys, window)
        mixed = _attend(queries, keys, values, scale=attention.scaling, mask=mask)
    hidden_AtD = hidden_AtD + attention.o_proj(mixed.flatten(2))
    mlp: Tensor = block.mlp(_rms_norm(hidden_AtD, block.post_attention_layernorm))
    return hidden_AtD + mlp


def _heads(projected: Float[Tensor, "A t HD"], attention: Any) -> Float[Tensor, "A t H d"]:
    return projected.unflatten(-1, (-1, attention.head_dim))


def _attend(
    queries: Float[Tensor, "A K H d"],
    keys: Float[Tensor, "A T G d"],
    values: Float[Tensor, "A T G d"],
    *,
    scale: float,
    mask: Bool[Tensor, "K T"] | None = None,
) -> Float[Tensor, "A K H d"]:
    """Attention under a mask, or causal in a square without one; G heads, each for H / G."""
    groups = queries.shape[2] // keys.shape[2]
    if mask is not None and groups > 1:
        # As transformers does: with a mask, grouped heads fall back to the slowest kernel.
        keys, values = (one.repeat_interleave(groups, dim=2) for one in (keys, values))
        groups = 1
    mixed = F.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=groups > 1,
    )
    return mixed.transpose(1, 2)


def _mask(queries: Tensor, keys: Tensor, window: int | None) -> Bool[Tensor, "K T"]:
    """What the last K of T tokens see: the tokens up to themselves, within the window."""
    count, length = queries.shape[1], keys.shape[1]
    seen = torch.ones(count, length, dtype=torch.bool, device=keys.device).tril_(length - count)
    return seen if window is None else seen.triu_(length - count - window + 1)


def _rms_norm(hidden: Tensor, norm: Any) -> Tensor:
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


def _rotate(
    heads: Float[Tensor, "A t H d"],
    cos: Float[Tensor, "1 t 1 d"],
    sin: Float[Tensor, "1 t 1 d"],
    before: Float[Tensor, "1 P H d"] | None = None,
) -> Float[Tensor, "A T H d"]:
    """Rotary position embedding, put behind what is `before`, the same for all rows."""
    if before is None:
        before = heads.new_empty(1, 0, *heads.shape[2:])
    rotated: Tensor = _Rotation.apply(heads, cos, sin, before)  # type: ignore[no-untyped-call]
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
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = gradients[0][:, ctx.before :]
        cos, sin = ctx.saved_tensors
        half = gradient.shape[-1] // 2
        back = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        torch.mul(gradient, cos, out=back)
        back[..., :half].addcmul_(gradient[..., half:], sin[..., half:])
        back[..., half:].addcmul_(gradient[..., :half], sin[..., :half], value=-1)
        return back, None, None, None
