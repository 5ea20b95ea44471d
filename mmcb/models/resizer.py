"""What the twins of image processors share: resizing as the libraries do, and normalising.

Shapes: B images, H x W before, h x w after.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmcb.models.resize import (
    LEVELS,
    Axis,
    Backend,
    bicubic_matrix,
    fixed_point,
    probe_pillow,
    straight_through_round,
)

BICUBIC = 3
"""`PIL.Image.Resampling.BICUBIC`."""


class Resizer:
    """Antialiased bicubic in two passes; with `quantize` in the 8-bit arithmetic of `backend`."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._orders: dict[tuple[int, int, int, int], tuple[Axis, Axis]] = {}
        self._matrices: dict[tuple[int, int, bool, torch.device], Tensor] = {}

    def __call__(
        self, levels: Float[Tensor, "B 3 H W"], size: tuple[int, int], *, quantize: bool
    ) -> Float[Tensor, "B 3 h w"]:
        """Resize levels (float64) to `size`, each pass rounded straight through if `quantize`."""
        height, width = levels.shape[2:]
        for axis in self._pass_order((height, width), size):
            source, target = (width, size[1]) if axis == "width" else (height, size[0])
            if source == target:
                continue
            matrix = self._matrix(source, target, quantize, levels.device)
            if quantize:
                product = _SinglyBack.apply(levels, matrix, axis)  # type: ignore[no-untyped-call]
                levels = straight_through_round(product)
            else:
                levels = _product(levels, matrix, axis)
        return levels

    def _matrix(self, source: int, target: int, quantize: bool, device: torch.device) -> Tensor:
        key = (source, target, quantize, device)
        if key not in self._matrices:
            weights = bicubic_matrix(source, target)
            if quantize:
                weights = fixed_point(weights, self.backend)
            self._matrices[key] = torch.from_numpy(weights).to(device)
        return self._matrices[key]

    def _pass_order(self, source: tuple[int, int], target: tuple[int, int]) -> tuple[Axis, Axis]:
        """Torchvision resizes rows first; Pillow 13 takes columns first for some portraits."""
        if self.backend == "torchvision" or source[0] == target[0] or source[1] == target[1]:
            return ("width", "height")
        key = (*source, *target)
        if key not in self._orders:
            self._orders[key] = probe_pillow(source, target)
        return self._orders[key]


class _SinglyBack(torch.autograd.Function):
    """A pass in the precision it is given, its gradient in single.

    Levels must be exact for rounding to be the libraries'; a direction need not be, and is half the
    work that way.
    """

    @staticmethod
    def forward(ctx: Any, levels: Tensor, matrix: Tensor, axis: Axis) -> Tensor:
        ctx.matrix, ctx.axis, ctx.dtype = matrix, axis, levels.dtype
        return _product(levels, matrix, axis)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        back = _product(gradients[0].float(), ctx.matrix.T.float(), ctx.axis)
        return back.to(ctx.dtype), None, None


def _product(levels: Tensor, matrix: Tensor, axis: Axis) -> Tensor:
    """Every row (`width`) or column (`height`) of pictures times the matrix."""
    return levels @ matrix.T if axis == "width" else matrix @ levels


def normalize(
    views: Float[Tensor, "*B 3 h w"], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "*B 3 h w"]:
    """Levels to the model's units, fused with the rescaling as torchvision's backend does."""
    mean_C = torch.tensor(mean, dtype=views.dtype, device=views.device) * LEVELS
    std_C = torch.tensor(std, dtype=views.dtype, device=views.device) * LEVELS
    return (views - mean_C[:, None, None]) / std_C[:, None, None]


def check_images(images: Tensor) -> None:
    """Raw pictures are a batch of floats.

    Raises:
        ValueError: they are not of shape (B, 3, H, W), or not floating.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"expected floats (B, 3, H, W), got {images.dtype} {images.shape}")


def square_side(size: Any) -> int | None:
    """The side of a square size given as transformers does, None if it is something else."""
    sides: dict[str, Any] = size if isinstance(size, dict) else vars(size)
    height, width, edge = (sides.get(key) for key in ("height", "width", "shortest_edge"))
    if height and width:
        return int(height) if height == width else None
    return int(edge) if edge and not sides.get("longest_edge") else None
