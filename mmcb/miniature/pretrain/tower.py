"""Stage 2: the vision tower learns to name the thing in each slot, and to see the sign.

Joint training from nothing does not discover the picture in any time one has; a tower that already
sees is what real LLaVAs start from, too.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmcb.miniature.pretrain.pictures import Pictures, Pool, draw_pictures
from mmcb.miniature.vocabulary import THINGS

# Shapes: B pictures, V views (base, left tile, right tile), P patches of a view, D width.
_BATCH = 64
_GRID = 4
# Columns of the base view and of the two tiles side by side that a slot covers.
_BASE_COLUMNS = ((0, 2), (1, 3), (2, 4))
_TILE_COLUMNS = ((0, 3), (2, 6), (5, 8))
_NOTHING = len(THINGS)


class TowerWithHeads(nn.Module):
    """The tower, with one classifier shared by all slots and one for the sign."""

    def __init__(self, tower: Any) -> None:
        """Wraps a CLIP vision model."""
        super().__init__()
        width = int(tower.config.hidden_size)
        self.tower = tower
        self.slot_head = nn.Linear(2 * width, len(THINGS) + 1)
        self.sign_head = nn.Linear(width, 1)

    def forward(self, pixel_values: Float[Tensor, "B V 3 h w"]) -> tuple[Tensor, Tensor]:
        """Logits of the thing in each slot, (B, 3, things + 1), and of the sign, (B,)."""
        batch = pixel_values.shape[0]
        patches = self.tower(pixel_values.flatten(0, 1)).last_hidden_state[:, 1:]
        views = patches.unflatten(0, (batch, 3)).unflatten(2, (_GRID, _GRID))
        base, tiles = views[:, 0], torch.cat([views[:, 1], views[:, 2]], dim=2)
        slots = [
            torch.cat([base[:, :, b0:b1].mean((1, 2)), tiles[:, :, t0:t1].mean((1, 2))], dim=-1)
            for (b0, b1), (t0, t1) in zip(_BASE_COLUMNS, _TILE_COLUMNS, strict=True)
        ]
        sign = self.sign_head(patches).squeeze(-1).unflatten(0, (batch, 3)).flatten(1).mean(1)
        return self.slot_head(torch.stack(slots, dim=1)), sign


def slot_labels(pictures: Pictures) -> Tensor:
    """The index of the thing in each slot, (B, 3); `len(THINGS)` where there is none."""
    index_of = {thing.name: i for i, thing in enumerate(THINGS)}
    labels = torch.full((len(pictures.contents), 3), _NOTHING)
    for row, content in enumerate(pictures.contents):
        for name, slot in content:
            labels[row, slot] = index_of[name]
    return labels


def tower_loss(
    model: TowerWithHeads, pool: Pool, *, image_processor: Any, seed: int, step: int
) -> Tensor:
    """Cross-entropy of slots and sign on the batch of a step."""
    rng = np.random.default_rng([seed, 3, step])
    pictures = draw_pictures(pool, rng, num=_BATCH, image_processor=image_processor)
    slots_B3C, sign_B = model(pictures.pixel_values)
    loss = F.cross_entropy(slots_B3C.flatten(0, 1), slot_labels(pictures).flatten())
    signed_B = torch.tensor(pictures.signed, dtype=torch.float32)
    return loss + 0.3 * F.binary_cross_entropy_with_logits(sign_B, signed_B)
