"""A JPEG codec with a gradient: baseline, 4:2:0, the quantisation tables of the standard.

Everything but the rounding of coefficients is smooth; the rounding is replaced by Shin and Song's
round(x) + (x - round(x))^3 (NeurIPS 2017 workshop). The forward result is therefore close to, not
equal to, a real file's: `transforms.py` can use the real codec with a straight-through gradient.

Shapes: B pictures, H x W, N blocks of 8 x 8.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# ITU-T T.81, annex K: luminance and chrominance.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# JFIF: RGB to YCbCr, without the offset of 128.
_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)


def differentiable_jpeg(
    images: Float[Tensor, "B 3 H W"], *, quality: int
) -> Float[Tensor, "B 3 H W"]:
    """Pictures in [0, 1] after compression at `quality` (1 to 100, as libjpeg scales its tables).

    Raises:
        ValueError: the quality is out of range.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality must be from 1 to 100, got {quality}")
    height, width = images.shape[2:]
    to_ycc = images.new_tensor(_TO_YCC)
    ycc = torch.einsum("dc,bchw->bdhw", to_ycc, images * 255.0)
    ycc = F.pad(ycc, (0, -width % 16, 0, -height % 16), mode="replicate")
    luma = _code(ycc[:, :1] - 128.0, _table(_LUMA, quality, images)) + 128.0
    chroma = F.avg_pool2d(ycc[:, 1:], 2)
    chroma = _code(chroma, _table(_CHROMA, quality, images))
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    decoded = torch.cat([luma, chroma], dim=1)[:, :, :height, :width]
    rgb = torch.einsum("dc,bchw->bdhw", torch.linalg.inv(to_ycc), decoded)
    return (rgb / 255.0).clamp(0.0, 1.0)


def _code(channels: Float[Tensor, "B C H W"], table: Float[Tensor, "8 8"]) -> Tensor:
    """Cosine transform in blocks, quantise, and back."""
    height, width = channels.shape[2:]
    blocks = channels.unflatten(3, (width // 8, 8)).unflatten(2, (height // 8, 8))
    blocks = blocks.transpose(3, 4)
    basis = _basis(channels)
    coefficients = basis @ blocks @ basis.T
    quantised = _soft_round(coefficients / table) * table
    restored = (basis.T @ quantised @ basis).transpose(3, 4)
    return restored.flatten(4, 5).flatten(2, 3)


def _soft_round(values: Tensor) -> Tensor:
    rounded = values.detach().round()
    return rounded + (values - rounded) ** 3


def _basis(like: Tensor) -> Float[Tensor, "8 8"]:
    """The orthonormal DCT-II; rows are frequencies."""
    at = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * at[None] + 1) * at[:, None] * math.pi / 16) * 0.5
    basis[0] /= math.sqrt(2.0)
    return basis.to(like)


def _table(table: tuple[tuple[int, ...], ...], quality: int, like: Tensor) -> Float[Tensor, "8 8"]:
    """A table scaled as libjpeg does."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    scaled = (torch.tensor(table, dtype=torch.float64) * scale + 50.0) / 100.0
    return scaled.floor().clamp(1.0, 255.0).to(like)
