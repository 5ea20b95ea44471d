"""Differentiable preprocessing of LLaVA-1.5 and its like: one view of a fixed size.

The twin of Hugging Face's CLIP and LLaVA image processors: pad to a square if they do, resize the
shorter edge (antialiased bicubic, in 8-bit arithmetic), crop the middle, normalise.

Shapes: B images, H x W raw pixels, h x w the model's view.
Source: transformers `image_processing_llava.py`, `image_processing_clip.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmcb.errors import MmcbError
from mmcb.models.resize import LEVELS, Backend
from mmcb.models.resizer import BICUBIC, Resizer, check_images, normalize, square_side, to_levels


class FixedSizePreprocessor:
    """Turns raw images into `pixel_values` as the model's own processor does, with gradients.

    Args:
        edge: length of the shorter edge after resizing; None: both sides become `side`.
        side: side of the view.
        mean, std: per channel, of images in [0, 1].
        pad: fill up to a square with the mean colour first.
        backend: whose 8-bit arithmetic to repeat.
    """

    def __init__(
        self,
        *,
        edge: int | None,
        side: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        pad: bool = False,
        backend: Backend = "torchvision",
    ) -> None:
        self.edge = edge
        self.side = side
        self.mean = mean
        self.std = std
        self.pad = pad
        self.backend = backend
        self._resizer = Resizer(backend)

    @classmethod
    def from_image_processor(
        cls, processor: Any, *, name: str = "the model"
    ) -> FixedSizePreprocessor:
        """Read every setting from a transformers image processor.

        Raises:
            MmcbError: it does something else than LLaVA-1.5's.
        """
        size = square_side(processor.size)
        crop = square_side(processor.crop_size) if processor.do_center_crop else size
        switches = ("do_resize", "do_rescale", "do_normalize")
        plain = (
            getattr(processor, "image_grid_pinpoints", None) is None
            and size is not None
            and crop is not None
            and size >= crop
            and all(getattr(processor, switch) for switch in switches)
            and math.isclose(processor.rescale_factor, 1 / LEVELS)
            and int(processor.resample) == BICUBIC
        )
        by_edge = _by_shorter_edge(processor.size)
        if not plain or size is None or crop is None or (by_edge and not processor.do_center_crop):
            raise MmcbError(
                f"the image processor of {name} is not LLaVA-1.5's: no differentiable twin of it",
                hint="add its preprocessing beside mmcb/models/fixed_size.py",
            )
        return cls(
            edge=size if by_edge else None,
            side=crop,
            mean=tuple(float(value) for value in processor.image_mean),
            std=tuple(float(value) for value in processor.image_std),
            pad=bool(getattr(processor, "do_pad", False)),
            backend="pil" if getattr(processor, "backend", "") == "pil" else "torchvision",
        )

    def own_levels(
        self, levels: Float[Tensor, "B 3 H W"], *, quantize: bool = True
    ) -> Float[Tensor, "B 3 h w"]:
        """Pictures (levels) as the model sees them, before normalising."""
        if self.pad:
            levels = self._pad_to_square(levels)
        levels = self._resizer(levels, self._resized(levels), quantize=quantize)
        top, left = ((length - self.side) // 2 for length in levels.shape[2:])
        return levels[:, :, top : top + self.side, left : left + self.side]

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], quantize: bool = True
    ) -> tuple[Float[Tensor, "B 3 h w"], Int[Tensor, "B 2"]]:
        """The view of each raw image, and the images' own sizes (which the model does not need).

        Args:
            images: RGB in [0, 1], float32 or float64, all of one size.
            quantize: round to whole levels where the libraries do, forward only.

        Raises:
            ValueError: not a floating tensor of shape (B, 3, H, W).
        """
        check_images(images)
        sizes = torch.tensor([images.shape[2:]] * images.shape[0])
        levels = to_levels(images, quantize=quantize)
        view = self.own_levels(levels, quantize=quantize)
        return normalize(view.to(images.dtype), mean=self.mean, std=self.std), sizes

    def _resized(self, levels: Float[Tensor, "B 3 H W"]) -> tuple[int, int]:
        if self.edge is None:
            return self.side, self.side
        height, width = levels.shape[2:]
        longer = int(self.edge * max(height, width) / min(height, width))
        return (longer, self.edge) if width <= height else (self.edge, longer)

    def _pad_to_square(self, levels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        height, width = levels.shape[2:]
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        fill = levels.new_tensor([float(int(value * LEVELS)) for value in self.mean])
        padded = fill[:, None, None].expand(len(levels), 3, side, side).clone()
        padded[:, :, top : top + height, left : left + width] = levels
        return padded


def _by_shorter_edge(size: Any) -> bool:
    sides: dict[str, Any] = size if isinstance(size, dict) else vars(size)
    return bool(sides.get("shortest_edge"))
