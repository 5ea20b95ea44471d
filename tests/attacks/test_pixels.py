"""Patches: what they may touch, where they stand, and that the loop moves them."""

import pytest
import torch
from torch import Tensor

from mmcb.attacks.core import Losses, Moment, Selection
from mmcb.attacks.optimiser import StepRule
from mmcb.attacks.pgd import PGDSettings, ProjectedGradientDescent
from mmcb.attacks.pixels import PatchSpace, PixelSpace
from mmcb.attacks.threat import PixelBall, from_levels, to_levels

ROWS = torch.arange(2)


def clean() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, 20, 30), generator=generator, dtype=torch.uint8)


def now(step: int = 0) -> Moment:
    return Moment(0, step, 10, 0, ("a", "b"))


class Brightness:
    """Wants a bright picture; so the optimum of a patch is white."""

    passes = 1

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor, rows: Tensor, moment: Moment) -> Losses:
        self.seen.append(to_levels(images))
        losses = 1.0 - images.mean(dim=(1, 2, 3))
        return Losses(losses, losses)


def run(space: PatchSpace, goal: Brightness, **changes: object) -> list[Tensor]:
    selection = Selection(every=5, draws=4) if space.moving else None
    pgd = ProjectedGradientDescent(
        PGDSettings(rule=StepRule(step_size=30 / 255), steps=10, random_start=True),
        space=space,
        objective=goal,
        row_ids=["a", "b"],
        selection=selection,
    )
    while not pgd.done:
        pgd.step()
    return [result.best for result in pgd.results()]


@pytest.mark.parametrize("places", [[(2, 3), (11, 20)], None])
def test_only_a_patch_changes_and_it_becomes_white(places: list[tuple[int, int]] | None) -> None:
    space = PatchSpace(clean(), ball=PixelBall(1.0), size=(6, 7), places=places)
    goal = Brightness()
    best = run(space, goal)
    assert all(one.shape == (3, 6, 7) and bool((one == 255).all()) for one in best)
    corners = []
    for pictures in goal.seen[1:]:
        for row, picture in enumerate(pictures):
            space.check_saved(picture, row)
            changed = (picture != clean()[row]).any(dim=0).nonzero()
            corners.append((row, *changed.amin(dim=0).tolist()))
    if places is None:
        assert len(set(corners)) > 10
    else:
        assert set(corners) == {(0, 2, 3), (1, 11, 20)}
    saved = space.pictures(torch.stack(best), row_ids=["a", "b"], seed=0)
    for row in range(2):
        space.check_saved(saved[row], row)
        assert int((saved[row] != clean()[row]).any(dim=0).sum()) > 30


def test_a_moving_patch_is_saved_where_no_step_put_it_by_design() -> None:
    space = PatchSpace(clean(), ball=PixelBall(1.0), size=(4, 4), places=None)
    stored = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    first = space.pictures(stored, row_ids=["a", "b"], seed=0)
    assert torch.equal(first, space.pictures(stored, row_ids=["a", "b"], seed=0))
    assert not torch.equal(first, space.pictures(stored, row_ids=["a", "b"], seed=1))
    swapped = space.pictures(stored, row_ids=["b", "a"], seed=0)
    assert (swapped[0] == 255).all(dim=0).nonzero().tolist() == (
        (first[1] == 255).all(dim=0).nonzero().tolist()
    )


def test_the_ball_is_around_what_is_under_the_patch() -> None:
    space = PatchSpace(clean(), ball=PixelBall(8 / 255), size=(6, 7), places=[(2, 3), (11, 20)])
    shown = space.realize(space.neutral(), ROWS, now())
    assert torch.equal(to_levels(shown), clean())
    far = space.project(torch.ones(2, 3, 6, 7), ROWS)
    pasted = to_levels(space.realize(far, ROWS, now()))
    assert int((pasted.int() - clean().int()).abs().max()) <= 8
    space.check_saved(pasted[0], 0)
    pasted[0, 0, 2, 3] = clean()[0, 0, 2, 3] ^ 128
    with pytest.raises(RuntimeError, match="levels off"):
        space.check_saved(pasted[0], 0)


def test_a_patch_has_a_gradient_only_where_it_is() -> None:
    space = PatchSpace(clean(), ball=PixelBall(1.0), size=(6, 7), places=[(2, 3), (11, 20)])
    patch = space.neutral().requires_grad_()
    weights = torch.randn(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((space.realize(patch, ROWS, now()) * weights).sum(), patch)
    torch.testing.assert_close(gradient[0], weights[0, :, 2:8, 3:10])
    torch.testing.assert_close(gradient[1], weights[1, :, 11:17, 20:27])


def test_what_was_saved_is_checked() -> None:
    picture = clean()[0].clone()
    picture[0, 0, 0] ^= 255
    picture[0, 19, 29] ^= 255
    space = PatchSpace(clean(), ball=PixelBall(1.0), size=(6, 7), places=None)
    with pytest.raises(RuntimeError, match="outside a patch"):
        space.check_saved(picture, 0)
    whole = PixelSpace(clean(), ball=PixelBall(8 / 255))
    whole.check_saved(clean()[0], 0)
    with pytest.raises(RuntimeError, match="levels off"):
        whole.check_saved(picture, 0)
    with pytest.raises(ValueError, match="does not fit"):
        PatchSpace(clean(), ball=PixelBall(1.0), size=(21, 4), places=None)
    assert torch.equal(whole.first(), from_levels(clean()))
