"""Differentiable preprocessing: a raw image in [0, 1] to a VLM's `pixel_values`.

The twin of Hugging Face's LLaVA-NeXT image processor ("anyres": a squashed base view and tiles of
a padded, enlarged picture), so that an attack optimises pixels that a PNG can hold. With `quantize`
it repeats what the libraries do to 8-bit images, in their own fixed-point arithmetic: two
separable passes of antialiased bicubic, each rounded and clipped to whole levels. Gradients go
straight through the rounding.

Shapes: B images, V views (base first), H x W raw pixels, h x w pixels of a view.
Source: transformers `models/llava_next/image_processing_llava_next.py`; ATen's and Pillow's
`Resample` kernels for the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from mmcb.errors import MmcbError
from mmcb.models.resize import LEVELS, Backend
from mmcb.models.resizer import BICUBIC, Resizer, check_images, normalize, square_side, to_levels


@dataclass(frozen=True, slots=True)
class SizePlan:
    """What becomes of an image of one size; every pair is (height, width)."""

    image: tuple[int, int]
    """The raw image."""
    canvas: tuple[int, int]
    """The best of the model's resolutions, which is cut into tiles."""
    resized: tuple[int, int]
    """The image enlarged or shrunk into the canvas, aspect kept."""
    padding: tuple[int, int, int, int]
    """Black bands left, top, right, bottom that fill the canvas."""
    grid: tuple[int, int]
    """Rows and columns of tiles."""

    @property
    def num_views(self) -> int:
        """V: the base view and the tiles."""
        return 1 + self.grid[0] * self.grid[1]


class PixelPreprocessor:
    """Turns raw images into `pixel_values` as the model's own processor does, with gradients.

    Args:
        tile: side of a view in pixels.
        pinpoints: the canvases (height, width) to choose from, in the processor's order.
        mean, std: per channel, of images in [0, 1].
        backend: whose 8-bit arithmetic to repeat.
    """

    def __init__(
        self,
        *,
        tile: int,
        pinpoints: tuple[tuple[int, int], ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        backend: Backend = "torchvision",
    ) -> None:
        self.tile = tile
        self.pinpoints = pinpoints
        self.mean = mean
        self.std = std
        self.backend = backend
        self._plans: dict[tuple[int, int], SizePlan] = {}
        self._resizer = Resizer(backend)

    @classmethod
    def from_image_processor(cls, processor: Any, *, name: str = "the model") -> PixelPreprocessor:
        """Read every setting from a transformers image processor.

        Raises:
            MmcbError: it does something else than LLaVA-NeXT's at the sizes of the released
                checkpoints.
        """
        pinpoints = getattr(processor, "image_grid_pinpoints", None)
        size = square_side(processor.size)
        switches = ("do_resize", "do_rescale", "do_normalize")
        plain = (
            pinpoints is not None
            and size is not None
            and (not processor.do_center_crop or square_side(processor.crop_size) == size)
            and all(getattr(processor, switch) for switch in switches)
            and math.isclose(processor.rescale_factor, 1 / LEVELS)
            and int(processor.resample) == BICUBIC
            and all(h % size == 0 and w % size == 0 for h, w in pinpoints)
        )
        if not plain or pinpoints is None or size is None:
            raise MmcbError(
                f"the image processor of {name} is not LLaVA-NeXT's: no differentiable twin of it",
                hint="use a LLaVA-NeXT model, or add its preprocessing to mmcb/models/vision.py",
            )
        return cls(
            tile=size,
            pinpoints=tuple((int(h), int(w)) for h, w in pinpoints),
            mean=tuple(float(value) for value in processor.image_mean),
            std=tuple(float(value) for value in processor.image_std),
            backend="pil" if getattr(processor, "backend", "") == "pil" else "torchvision",
        )

    def size_plan(self, height: int, width: int) -> SizePlan:
        """How an image of this size is resized, padded and tiled."""
        key = (height, width)
        if key not in self._plans:
            self._plans[key] = self._make_plan(height, width)
        return self._plans[key]

    def own_levels(self, levels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        """Pictures (whole levels) at the size at which the tiles show them unchanged."""
        plan = self.size_plan(levels.shape[2], levels.shape[3])
        return self._resizer(levels, plan.resized, quantize=True)

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], quantize: bool = True
    ) -> tuple[Float[Tensor, "B V 3 h w"], Int[Tensor, "B 2"]]:
        """Views of raw images, ready for the model (cast to its dtype there).

        Args:
            images: RGB in [0, 1], float32 or float64, all of one size.
            quantize: round to whole levels where the libraries do, forward only; the result is
                then that of the image saved as PNG. Without it the map is linear and smooth.

        Returns:
            `pixel_values` in the dtype of `images`, and `image_sizes` (raw height, width).

        Raises:
            ValueError: not a floating tensor of shape (B, 3, H, W).
        """
        check_images(images)
        plan = self.size_plan(images.shape[2], images.shape[3])
        levels = to_levels(images, quantize=quantize)
        base = self._resizer(levels, (self.tile, self.tile), quantize=quantize)
        canvas = self._resizer(levels, plan.resized, quantize=quantize)
        left, top, right, bottom = plan.padding
        canvas = F.pad(canvas, (left, right, top, bottom))
        views = torch.cat([base[:, None], self._cut(canvas, plan.grid)], dim=1)
        # On the CPU: transformers reads them one by one, and would wait for a GPU each time.
        image_sizes = torch.tensor([plan.image] * images.shape[0])
        return normalize(views.to(images.dtype), mean=self.mean, std=self.std), image_sizes

    def _make_plan(self, height: int, width: int) -> SizePlan:
        from transformers.image_processing_utils import select_best_resolution

        best = select_best_resolution((height, width), list(self.pinpoints))
        canvas = (int(best[0]), int(best[1]))
        scale_h, scale_w = canvas[0] / height, canvas[1] / width
        if scale_w < scale_h:
            resized = (min(math.ceil(height * scale_w), canvas[0]), canvas[1])
        else:
            resized = (canvas[0], min(math.ceil(width * scale_h), canvas[1]))
        top, odd_row = divmod(canvas[0] - resized[0], 2)
        left, odd_column = divmod(canvas[1] - resized[1], 2)
        return SizePlan(
            image=(height, width),
            canvas=canvas,
            resized=resized,
            padding=(left, top, left + odd_column, top + odd_row),
            grid=(canvas[0] // self.tile, canvas[1] // self.tile),
        )

    def _cut(
        self, canvas: Float[Tensor, "B 3 H W"], grid: tuple[int, int]
    ) -> Float[Tensor, "B V 3 h w"]:
        """Tiles, row by row."""
        rows, columns = grid
        cut = canvas.unflatten(3, (columns, self.tile)).unflatten(2, (rows, self.tile))
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
