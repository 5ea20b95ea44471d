"""The threat model of image attacks: an L-infinity ball around a raw 8-bit picture.

The attacker may change every pixel of the picture *as it is stored*, before any resizing, by at
most `epsilon`. An attack on the resized tensor of a processor is not this threat: one raw pixel
feeds the base view and a tile of LLaVA-NeXT, so most perturbed tensors belong to no picture.

Shapes: B pictures, H rows, W columns. Pictures are float32 in [0, 1], channels first, RGB.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

LEVELS = 255
"""Largest value of an 8-bit pixel."""


def to_levels(images: Float[Tensor, "*B 3 H W"]) -> UInt8[Tensor, "*B 3 H W"]:
    """Nearest 8-bit picture, rounding (`to_pil_image` of a float tensor would truncate)."""
    return (images.detach() * LEVELS).round_().clamp_(0, LEVELS).to(torch.uint8)


def from_levels(levels: UInt8[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    """The float32 picture in [0, 1] that an 8-bit picture stands for."""
    return levels.to(torch.float32) / LEVELS


def to_grid(images: Float[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    """Round to the 8-bit grid k/255, so that the picture can be saved as it is."""
    return (images * LEVELS).round_().clamp_(0, LEVELS).div_(LEVELS)


@dataclass(frozen=True, slots=True)
class PixelBall:
    """All 8-bit pictures within `epsilon` of a clean one in the maximum norm.

    Args:
        epsilon: radius as a fraction of the pixel range, e.g. 32/255.
    """

    epsilon: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.epsilon <= 1.0:
            raise ValueError(f"epsilon must be in [0, 1], got {self.epsilon}")

    @property
    def radius(self) -> int:
        """Radius in whole 8-bit levels: the largest one that does not exceed epsilon."""
        # 32/255*255 can be 31.999999; half a thousandth of a level is no one's intention.
        return math.floor(self.epsilon * LEVELS + 5e-4)

    def bounds(
        self, clean: UInt8[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 3 H W"]]:
        """Smallest and largest allowed value of every pixel, both on the 8-bit grid."""
        levels = clean.to(torch.float32)
        lower = (levels - self.radius).clamp_min(0) / LEVELS
        upper = (levels + self.radius).clamp_max(LEVELS) / LEVELS
        return lower, upper

    def project(
        self, images: Float[Tensor, "B 3 H W"], clean: UInt8[Tensor, "B 3 H W"]
    ) -> Float[Tensor, "B 3 H W"]:
        """Nearest point of the ball around `clean` (and of [0, 1]).

        The bounds lie on the grid, hence rounding a projected picture cannot leave the ball.
        """
        lower, upper = self.bounds(clean)
        return images.clamp(lower, upper)

    def random_point(
        self, clean: UInt8[Tensor, "3 H W"], *, generator: torch.Generator
    ) -> Float[Tensor, "3 H W"]:
        """A grid point drawn uniformly, level by level, from the ball around one picture.

        The noise is drawn on the CPU, so that a seed means the same picture on every device.
        """
        noise = torch.randint(
            -self.radius, self.radius + 1, clean.shape, generator=generator, dtype=torch.int16
        )
        levels = clean.to(torch.int16) + noise.to(clean.device)
        return levels.clamp(0, LEVELS).to(torch.float32) / LEVELS

    def distance(
        self, images: UInt8[Tensor, "B 3 H W"], clean: UInt8[Tensor, "B 3 H W"]
    ) -> UInt8[Tensor, " B"]:
        """Largest change of any pixel of each picture, in levels."""
        change = (images.to(torch.int16) - clean.to(torch.int16)).abs()
        return change.flatten(1).amax(dim=1).to(torch.uint8)
