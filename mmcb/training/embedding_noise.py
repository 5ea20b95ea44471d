"""Noise on circuit-breaker embeddings, so that a breaker learns no words and no pictures by heart.

A circuit-breaker set has few categories of harm, and an adapter that has learned to turn away from
these very words lets others pass. So each of its embeddings, image features included, is moved at
random, by up to a stated share of its own length, differently in each step: what is left to learn
from is what such requests have in common. The retain set stays as it is, and so do held-out records
and the model that is saved: noise is a matter of training.

Ours: `docs/decisions.md`; the numbers are in `docs/lab-log.md`. The means is NEFTune's (Jain et al.
2023, arXiv 2310.05914), which adds uniform noise to all embeddings, to write better answers.

Shapes: B examples, T tokens, t of them, D width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmcb.training.batches import Batch
from mmcb.training.dropout import RowNoise

WAYS, SHARES = -1, -2
"""What draws here, beside the dropout layers of `RowNoise`, which count from 0."""


def shaken(
    embeddings_BTD: Float[Tensor, "B T D"],
    batch: Batch,
    *,
    noise: RowNoise,
    most: float,
    bos_id: int,
) -> Float[Tensor, "B T D"]:
    """The embeddings, those of circuit-breaker rows moved.

    Each token goes in a direction of its own; an example's tokens go the same share of their
    length, which is uniform between 0 and `most`. So some examples are met almost as they are.

    Args:
        embeddings_BTD: the decoder's input, image features in their places.
        batch: whose embeddings they are.
        noise: at work for this batch; without one, nothing moves.
        most: largest move of a token, as a share of its embedding's length.
        bos_id: token that does not move: an attention sink, the same in all texts.
    """
    if most == 0:
        return embeddings_BTD
    lots_BTD = noise.lots(embeddings_BTD, layer=WAYS)
    lots_BT1 = noise.lots(embeddings_BTD[..., :1], layer=SHARES)
    if lots_BTD is None or lots_BT1 is None:
        return embeddings_BTD
    rows = torch.arange(len(lots_BT1), device=lots_BT1.device)
    # One number for a whole example: its first token's, wherever padding puts that.
    share_B = most * (_uniform(lots_BT1)[rows, batch.attention_mask.argmax(1), 0] + 1) / 2
    moved_BT1 = torch.zeros_like(lots_BT1)
    moved_BT1[batch.rerouted // batch.input_ids.shape[1]] = 1.0
    moved_BT1 *= (batch.attention_mask * (batch.input_ids != bos_id)).unsqueeze(-1)
    ways_BTD = torch.erfinv(_uniform(lots_BTD))  # normally distributed: no direction is likelier
    ways_BTD /= _lengths(ways_BTD)
    moves_BTD = share_B[:, None, None] * moved_BT1 * _lengths(embeddings_BTD.float()) * ways_BTD
    return embeddings_BTD + moves_BTD.to(embeddings_BTD)


def _uniform(lots: Tensor) -> Tensor:
    """Lots as numbers between -1 and 1, both excluded."""
    return (lots + 0.5) / 2**15


def _lengths(vectors_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T 1"]:
    return torch.linalg.vector_norm(vectors_BTD, dim=-1, keepdim=True)
