"""Parameter spaces of pictures: every pixel within a ball, or a patch, stationary or moving.

What the objective sees is always on the 8-bit grid; the gradient at the rounded picture moves the
unrounded one (straight-through), so the loss of an iterate is already that of the file that would
be saved.

Shapes: B pictures, A active ones, H x W a picture, h x w a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from mmcb.attacks.core import Moment
from mmcb.attacks.threat import PixelBall, from_levels, to_grid, to_levels

_GRAY = 128
"""Where a moving patch is centred: there is no picture under it."""


def straight_to_grid(images: Float[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    """The 8-bit grid going forward, the identity going backward."""
    on_grid: Tensor = _StraightToGrid.apply(images)  # type: ignore[no-untyped-call]
    return on_grid


class _StraightToGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return to_grid(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class PixelSpace:
    """Every pixel of a picture, within a ball around the clean one.

    Args:
        clean: the clean 8-bit pictures, on the device of the model.
        ball: the threat model.
        start: where the first restart begins, such as pictures made for another model; the ball
            stays around `clean`.
    """

    def __init__(
        self,
        clean: UInt8[Tensor, "B 3 H W"],
        *,
        ball: PixelBall,
        start: UInt8[Tensor, "B 3 H W"] | None = None,
    ) -> None:
        self.clean = clean
        self.ball = ball
        self._start = start
        self._lower, self._upper = ball.bounds(clean)

    def neutral(self) -> Float[Tensor, "B 3 H W"]:
        """The clean pictures."""
        return from_levels(self.clean)

    def first(self) -> Float[Tensor, "B 3 H W"]:
        """The given start, brought into the ball, or the clean pictures."""
        if self._start is None:
            return self.neutral()
        return self.ball.project(from_levels(self._start), self.clean)

    def random_point(self, row: int, *, generator: torch.Generator) -> Float[Tensor, "3 H W"]:
        """A grid point of the ball, drawn uniformly."""
        return self.ball.random_point(self.clean[row], generator=generator)

    def project(
        self, parameters: Float[Tensor, "A 3 H W"], rows: Int64[Tensor, " A"]
    ) -> Float[Tensor, "A 3 H W"]:
        """Back into the ball."""
        return parameters.clamp(self._lower[rows], self._upper[rows])

    def realize(
        self, parameters: Float[Tensor, "A 3 H W"], rows: Int64[Tensor, " A"], moment: Moment
    ) -> Float[Tensor, "A 3 H W"]:
        """The pictures as a file would hold them."""
        return straight_to_grid(parameters)

    def store(
        self, parameters: Float[Tensor, "A 3 H W"], rows: Int64[Tensor, " A"]
    ) -> UInt8[Tensor, "A 3 H W"]:
        """8-bit levels."""
        return to_levels(parameters)

    def pictures(
        self, stored: UInt8[Tensor, "B 3 H W"], *, row_ids: Sequence[str], seed: int
    ) -> UInt8[Tensor, "B 3 H W"]:
        """The pictures to save: what is stored, as it is."""
        return stored

    def check_saved(self, picture: UInt8[Tensor, "3 H W"], row: int) -> None:
        """Assert the threat model on what was saved.

        Raises:
            RuntimeError: the picture is outside the ball, which would be a bug of ours.
        """
        _check_ball(self.ball, picture, self.clean[row].cpu())


class PatchSpace:
    """A rectangle pasted over the picture; the rest of the picture stays as it is.

    Source: image-hijacks (static and randomly placed patches), HarmBench's MultiModalPGDPatch
    (square of 0.2 of the shorter side, epsilon 1, random content, a random but fixed place).

    Args:
        clean: the clean 8-bit pictures, on the device of the model.
        ball: how far the patch's pixels may go from what is under it (moving: from gray).
        size: (h, w) of the patch.
        places: per picture (top, left) of a stationary patch; None: it is pasted at a place drawn
            anew for every loss, so that it works anywhere.
    """

    def __init__(
        self,
        clean: UInt8[Tensor, "B 3 H W"],
        *,
        ball: PixelBall,
        size: tuple[int, int],
        places: Sequence[tuple[int, int]] | None,
    ) -> None:
        height, width = clean.shape[2:]
        if not (0 < size[0] <= height and 0 < size[1] <= width):
            raise ValueError(f"a patch of {size} does not fit a picture of {(height, width)}")
        self.clean = clean
        self.ball = ball
        self.size = size
        self._places = None if places is None else list(places)
        if self._places is None:
            self._center = torch.full_like(clean[:, :, : size[0], : size[1]], _GRAY)
        else:
            cuts = [_cut(one, at, size) for one, at in zip(clean, self._places, strict=True)]
            self._center = torch.stack(cuts)

    @property
    def moving(self) -> bool:
        """Whether the patch has no place of its own."""
        return self._places is None

    def neutral(self) -> Float[Tensor, "B 3 h w"]:
        """What is under the patch; gray for a moving one."""
        return from_levels(self._center)

    def first(self) -> Float[Tensor, "B 3 h w"]:
        """The same as `neutral`."""
        return self.neutral()

    def random_point(self, row: int, *, generator: torch.Generator) -> Float[Tensor, "3 h w"]:
        """A patch drawn uniformly from the ball."""
        return self.ball.random_point(self._center[row], generator=generator)

    def project(
        self, parameters: Float[Tensor, "A 3 h w"], rows: Int64[Tensor, " A"]
    ) -> Float[Tensor, "A 3 h w"]:
        """Back into the ball."""
        return self.ball.project(parameters, self._center[rows])

    def realize(
        self, parameters: Float[Tensor, "A 3 h w"], rows: Int64[Tensor, " A"], moment: Moment
    ) -> Float[Tensor, "A 3 H W"]:
        """The pictures with their patches on them."""
        patches, clean = straight_to_grid(parameters), from_levels(self.clean[rows])
        places = [self.place(row, moment) for row in rows.tolist()]
        pasted = [
            _paste(one, patch, at) for one, patch, at in zip(clean, patches, places, strict=True)
        ]
        return torch.stack(pasted)

    def store(
        self, parameters: Float[Tensor, "A 3 h w"], rows: Int64[Tensor, " A"]
    ) -> UInt8[Tensor, "A 3 h w"]:
        """8-bit levels of the patches."""
        return to_levels(parameters)

    def place(self, row: int, moment: Moment) -> tuple[int, int]:
        """(top, left) of a row's patch at a moment."""
        if self._places is not None:
            return self._places[row]
        return random_place(
            self.clean.shape[2:], self.size, generator=moment.generator(row, "place")
        )

    def pictures(
        self, stored: UInt8[Tensor, "B 3 h w"], *, row_ids: Sequence[str], seed: int
    ) -> UInt8[Tensor, "B 3 H W"]:
        """The pictures to save; a moving patch goes to a place that no step has seen."""
        saved = Moment(restart=-2, step=0, steps=1, seed=seed, row_ids=row_ids)
        parameters = from_levels(stored).to(self.clean.device)
        rows = torch.arange(len(stored), device=self.clean.device)
        return to_levels(self.realize(parameters, rows, saved))

    def check_saved(self, picture: UInt8[Tensor, "3 H W"], row: int) -> None:
        """Assert that nothing changed but one rectangle of the patch's size, within the ball.

        Raises:
            RuntimeError: more changed, which would be a bug of ours.
        """
        clean = self.clean[row].cpu()
        if not self.moving:
            _check_ball(self.ball, picture, clean)
        changed = (picture != clean).any(dim=0)
        for axis, allowed in enumerate(self.size):
            at = changed.any(dim=1 - axis).nonzero()
            if len(at) and int(at.max() - at.min()) >= allowed:
                raise RuntimeError(f"saved picture changed outside a patch of {self.size}")


def random_place(
    image: Sequence[int], size: tuple[int, int], *, generator: torch.Generator
) -> tuple[int, int]:
    """(top, left) drawn uniformly among the places where a patch of `size` fits."""
    top = torch.randint(0, image[0] - size[0] + 1, (), generator=generator)
    left = torch.randint(0, image[1] - size[1] + 1, (), generator=generator)
    return int(top), int(left)


def _check_ball(ball: PixelBall, picture: Tensor, clean: Tensor) -> None:
    off = int(ball.distance(picture[None], clean[None]))
    if off > ball.radius:
        raise RuntimeError(f"saved picture is {off} levels off, allowed {ball.radius}")


def _cut(image: Tensor, at: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return image[:, at[0] : at[0] + size[0], at[1] : at[1] + size[1]]


def _paste(image: Tensor, patch: Tensor, at: tuple[int, int]) -> Tensor:
    image = image.clone()
    image[:, at[0] : at[0] + patch.shape[1], at[1] : at[1] + patch.shape[2]] = patch
    return image
