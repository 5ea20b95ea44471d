"""Antialiased bicubic resizing as matrices, in the fixed-point arithmetic of the image libraries.

`vision.py` multiplies by these; two matrix products are one resize, with an exact adjoint.
Source: Pillow's `Resample.c`, which ATen's 8-bit kernels follow.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Backend = Literal["torchvision", "pil"]
Axis = Literal["width", "height"]
Weights: TypeAlias = npt.NDArray[np.floating]

LEVELS = 255.0
"""The highest 8-bit level."""


def straight_through_round(levels: Tensor) -> Tensor:
    """Whole levels in [0, 255] going forward, the identity going backward.

    Clipping passes the gradient too: white areas overshoot by rounding noise alone, and an attack
    must still be able to darken them. Halves go up, as in the libraries.
    """
    rounded: Tensor = _Rounding.apply(levels)  # type: ignore[no-untyped-call]
    return rounded


def round_levels_(levels: Tensor) -> Tensor:
    """Whole levels in [0, 255], in place; halves go up."""
    return levels.clamp_(0.0, LEVELS).add_(0.5).floor_()


class _Rounding(torch.autograd.Function):
    """One pass over raw pictures less, each way, than sums and differences with `detach`."""

    @staticmethod
    def forward(ctx: Any, levels: Tensor) -> Tensor:
        return round_levels_(levels.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def bicubic_matrix(source: int, target: int) -> Weights:
    """(target, source) weights that resize one axis: antialiased Keys bicubic, a = -0.5.

    Rows sum to 1. Pillow's kernel, which torch takes over for `antialias=True`, also when
    enlarging; torch's plain bicubic has a = -0.75.
    """
    scale = source / target
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    weights = np.zeros((target, source))
    for row in range(target):
        center = (row + 0.5) * scale
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), source)
        kernel = _keys((np.arange(low, high) - center + 0.5) / stretch)
        weights[row, low:high] = kernel / kernel.sum()
    return weights


def _keys(x: Weights, a: float = -0.5) -> Weights:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def fixed_point(weights: Weights, backend: Backend) -> Weights:
    """Round the weights as the 8-bit kernels store them.

    Pillow keeps 22 fractional bits; torch as many as let the largest weight fit 16 bits.
    """
    bits = 22
    if backend == "torchvision":
        bits = 0
        while bits < 22 and int(0.5 + weights.max() * 2 ** (bits + 1)) < 2**15:
            bits += 1
    scale = float(2**bits)
    rounded: Weights = np.trunc(weights * scale + np.copysign(0.5, weights)) / scale
    return rounded


def probe_pillow(source: tuple[int, int], target: tuple[int, int]) -> tuple[Axis, Axis]:
    """Ask the installed Pillow which pass it does first: resize noise, see which order matches."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, source, dtype=np.uint8)
    resized = Image.fromarray(noise).resize((target[1], target[0]), Image.Resampling.BICUBIC)
    wanted = np.asarray(resized, dtype=np.float64)
    across = fixed_point(bicubic_matrix(source[1], target[1]), "pil").T
    down = fixed_point(bicubic_matrix(source[0], target[0]), "pil")

    def levels(values: Weights) -> Weights:
        return np.floor(np.clip(values, 0.0, LEVELS) + 0.5)

    width_first = np.abs(levels(down @ levels(noise @ across)) - wanted).sum()
    height_first = np.abs(levels(levels(down @ noise) @ across) - wanted).sum()
    return ("width", "height") if width_first <= height_first else ("height", "width")
