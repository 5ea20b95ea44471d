"""What the twins of image processors share: resizing as the libraries do, and normalising.

Shapes: B images, H x W before, h x w after.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mmcb.models.resize import (
    LEVELS,
    Axis,
    Backend,
    bicubic_matrix,
    fixed_point,
    probe_pillow,
    round_levels_,
    straight_through_round,
)

Passes: TypeAlias = list[tuple[Tensor, Axis]]

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
        """Resize levels to `size`.

        Args:
            levels: whole levels in any precision with `quantize`, else float64.
            size: h, w.
            quantize: round each pass to whole levels, straight through.
        """
        if levels.shape[2:] == size:
            return levels
        passes = self._passes((levels.shape[2], levels.shape[3]), size, quantize, levels.device)
        if quantize:
            library = self.backend == "torchvision" and levels.device.type == "cpu"
            resized: Tensor = _RoundedResize.apply(  # type: ignore[no-untyped-call]
                levels, passes, size if library else None
            )
            return resized
        for matrix, axis in passes:
            levels = _product(levels, matrix, axis)
        return levels

    def _passes(
        self,
        source: tuple[int, int],
        target: tuple[int, int],
        quantize: bool,
        device: torch.device,
    ) -> Passes:
        """The matrices of a resize and the axes they resize, in the library's order."""
        lengths = {"height": (source[0], target[0]), "width": (source[1], target[1])}
        return [
            (self._matrix(*lengths[axis], quantize, device), axis)
            for axis in self._pass_order(source, target)
            if lengths[axis][0] != lengths[axis][1]
        ]

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


class _RoundedResize(torch.autograd.Function):
    """A resize in the 8-bit arithmetic of a library, its gradient straight through the rounding.

    Sums must be exact for rounding to be the libraries', and float64 holds their fixed-point
    weights, untouched by TF32 and autocast. Where torch's own 8-bit kernel can be had, it is used:
    the same numbers ten times as fast. A direction need not be exact: the gradient is computed in
    single precision, half the work.
    """

    @staticmethod
    def forward(
        ctx: Any, levels: Tensor, passes: Passes, library_size: tuple[int, int] | None
    ) -> Tensor:
        ctx.passes, ctx.dtype = passes, levels.dtype
        if library_size is not None:
            pixels = (levels + 0.5).to(torch.uint8)
            resized = F.interpolate(pixels, size=library_size, mode="bicubic", antialias=True)
            return resized.to(levels.dtype)
        exact = levels.double()
        for matrix, axis in passes:
            exact = round_levels_(_product(exact, matrix, axis))
        return exact.to(levels.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0].float()
        for matrix, axis in reversed(ctx.passes):
            gradient = _product(gradient, matrix.T.float(), axis)
        return gradient.to(ctx.dtype), None, None


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


def to_levels(images: Float[Tensor, "B 3 H W"], *, quantize: bool) -> Float[Tensor, "B 3 H W"]:
    """Pictures in [0, 1] as levels: whole ones, or else unrounded in float64."""
    if not quantize:
        return images.double() * LEVELS
    return straight_through_round(images * LEVELS)


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
