"""What may happen to a picture on its way to the model: JPEG, resizing, noise.

Expectation over transforms (Athalye et al., arXiv 1707.07397): every loss is a mean over random
transforms, so the picture survives them. JPEG and resizing also exist as what libraries really do
(`applied`), for measuring what survived.

Shapes: B pictures, A of them, H x W.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mmcb.attacks.core import Losses, Moment, Objective
from mmcb.attacks.jpeg import differentiable_jpeg
from mmcb.models.resize import LEVELS, bicubic_matrix

TransformName = Literal["jpeg", "resize", "noise"]
JpegGradient = Literal["differentiable", "straight-through"]

MIN_SCALE = 0.75
"""Resizing goes down to a share of the size drawn from here to 1, and up again."""
NOISE_LEVELS = 4.0
"""Standard deviation of the noise, in 8-bit levels."""


class TransformedObjective:
    """Mean of an objective over random transforms of the picture.

    Each sample draws, for each row, one value per transform and applies them in the order given:
    resizing, noise, then JPEG, as a picture meets them.

    Args:
        inner: the objective of the picture as the model gets it.
        names: which transforms.
        samples: how many draws a loss is a mean of.
        jpeg_quality: the lowest quality; drawn from here to 95.
        jpeg_gradient: through a smooth JPEG, or the real one with the identity backward (BPDA,
            arXiv 1802.00420).
    """

    def __init__(
        self,
        inner: Objective,
        *,
        names: Sequence[TransformName],
        samples: int,
        jpeg_quality: int,
        jpeg_gradient: JpegGradient = "differentiable",
    ) -> None:
        self._inner = inner
        self._names = [name for name in ("resize", "noise", "jpeg") if name in names]
        self._samples = samples
        self._quality = jpeg_quality
        self._gradient = jpeg_gradient

    @property
    def passes(self) -> int:
        """Every sample is a pass."""
        return self._inner.passes * self._samples

    def __call__(
        self, candidates: Float[Tensor, "A 3 H W"], rows: Tensor, moment: Moment
    ) -> Losses:
        """Mean losses over the samples."""
        losses = []
        for sample in range(self._samples):
            transformed = [
                self._transform(image, moment.generator(row, f"transform {sample}"))
                for image, row in zip(candidates, rows.tolist(), strict=True)
            ]
            losses.append(self._inner(torch.stack(transformed), rows, moment))
        return Losses(
            torch.stack([one.descend for one in losses]).mean(dim=0),
            torch.stack([one.score for one in losses]).mean(dim=0),
        )

    def _transform(
        self, image: Float[Tensor, "3 H W"], generator: torch.Generator
    ) -> Float[Tensor, "3 H W"]:
        for name in self._names:
            if name == "resize":
                image = resize_and_back(image, scale=_draw_scale(generator))
            elif name == "noise":
                noise = torch.randn(image.shape, generator=generator).to(image.device)
                image = image + noise * (NOISE_LEVELS / LEVELS)
            else:
                quality = draw_quality(self._quality, generator)
                image = jpeg(image, quality=quality, gradient=self._gradient)
        return image.clamp(0.0, 1.0)


def resize_and_back(image: Float[Tensor, "3 H W"], *, scale: float) -> Float[Tensor, "3 H W"]:
    """Antialiased bicubic to `scale` of the size, and up again."""
    height, width = image.shape[1:]
    small = max(1, round(height * scale)), max(1, round(width * scale))
    down_h, down_w = _matrix(height, small[0], image), _matrix(width, small[1], image)
    up_h, up_w = _matrix(small[0], height, image), _matrix(small[1], width, image)
    shrunk = (down_h @ image @ down_w.T).clamp(0.0, 1.0)
    return up_h @ shrunk @ up_w.T


def jpeg(
    image: Float[Tensor, "3 H W"], *, quality: int, gradient: JpegGradient
) -> Float[Tensor, "3 H W"]:
    """The picture after JPEG compression, with a gradient."""
    if gradient == "differentiable":
        return differentiable_jpeg(image[None], quality=quality)[0]
    real = real_jpeg(image.detach(), quality=quality)
    return real + (image - image.detach())


def real_jpeg(image: Float[Tensor, "3 H W"], *, quality: int) -> Float[Tensor, "3 H W"]:
    """What Pillow's encoder and decoder (4:2:0) make of a picture in [0, 1]."""
    levels = (image * LEVELS).round().clamp(0, LEVELS).to(torch.uint8)
    picture = Image.fromarray(levels.permute(1, 2, 0).cpu().contiguous().numpy())
    decoded = torch.from_numpy(np.array(jpeg_of(picture, quality=quality)))
    return decoded.permute(2, 0, 1).to(image.device).float() / LEVELS


def jpeg_of(picture: Image.Image, *, quality: int) -> Image.Image:
    """A picture after a JPEG file of the given quality, with Pillow's default subsampling."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def applied(
    picture: Image.Image, names: Sequence[TransformName], *, quality: int, seed: int
) -> Image.Image:
    """The same transforms by Pillow, once, drawn by `seed`: what a picture really goes through."""
    generator = torch.Generator().manual_seed(seed)
    steps: dict[str, Callable[[Image.Image], Image.Image]] = {
        "resize": lambda image: _resized_by_pillow(image, _draw_scale(generator)),
        "noise": lambda image: _noisy(image, generator),
        "jpeg": lambda image: jpeg_of(image, quality=draw_quality(quality, generator)),
    }
    for name, step in steps.items():
        if name in names:
            picture = step(picture)
    return picture


def draw_quality(lowest: int, generator: torch.Generator) -> int:
    """A JPEG quality from `lowest` to 95."""
    return int(torch.randint(lowest, max(lowest, 95) + 1, (), generator=generator))


def _draw_scale(generator: torch.Generator) -> float:
    return MIN_SCALE + (1.0 - MIN_SCALE) * float(torch.rand((), generator=generator))


def _matrix(source: int, target: int, like: Tensor) -> Tensor:
    return torch.from_numpy(bicubic_matrix(source, target)).to(like)


def _resized_by_pillow(image: Image.Image, scale: float) -> Image.Image:
    width, height = image.size
    small = max(1, round(width * scale)), max(1, round(height * scale))
    bicubic = Image.Resampling.BICUBIC
    return image.resize(small, bicubic).resize((width, height), bicubic)


def _noisy(image: Image.Image, generator: torch.Generator) -> Image.Image:
    pixels = torch.from_numpy(np.array(image)).float()
    pixels = pixels + NOISE_LEVELS * torch.randn(pixels.shape, generator=generator)
    return Image.fromarray(pixels.round().clamp(0, LEVELS).to(torch.uint8).numpy())
