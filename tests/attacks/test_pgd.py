"""Projected gradient descent on a loss that is a formula: everything about it can be computed."""

import pytest
import torch
from torch import Tensor

from mmcb.attacks.pgd import PGDSettings, ProjectedGradientDescent
from mmcb.attacks.threat import PixelBall, from_levels, to_grid, to_levels

B, H, W = 4, 5, 7


class Landscape:
    """A rugged loss per row whose minimum lies outside the ball; remembers what it was shown."""

    def __init__(self, *, fold: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(3)
        self.goal = torch.rand(B, 3, H, W, generator=generator)
        self.fold = fold
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, images: Tensor, rows: Tensor) -> Tensor:
        distance = images - self.goal[rows]
        losses = distance.square().mean(dim=(1, 2, 3))
        losses = losses + self.fold * (distance * 90).sin().mean(dim=(1, 2, 3))
        self.seen.append((images.detach().clone(), rows.clone(), losses.detach().clone()))
        return losses


def clean_levels() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (B, 3, H, W), generator=generator, dtype=torch.uint8)


def settings(**changes: object) -> PGDSettings:
    values: dict[str, object] = {"ball": PixelBall(32 / 255), "steps": 12, "step_size": 3 / 255}
    return PGDSettings(**{**values, **changes})  # type: ignore[arg-type]


def attack(loss: Landscape, **changes: object) -> ProjectedGradientDescent:
    return ProjectedGradientDescent(
        settings(**changes), loss=loss, clean=clean_levels(), row_ids=[f"b{i}" for i in range(B)]
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"step_size": 0.4 / 255},
        {"step_size": 40 / 255},
        {"momentum": 0.9, "schedule": "cosine"},
        {"restarts": 3, "random_start": True, "schedule": "linear"},
        {"ball": PixelBall(1.0), "step_size": 70 / 255},
        {"ball": PixelBall(0.0)},
    ],
)
def test_every_iterate_is_in_the_ball_and_on_the_grid(changes: dict[str, object]) -> None:
    loss = Landscape(fold=0.3)
    pgd = attack(loss, **changes)
    while not pgd.done:
        pgd.step()
    clean = clean_levels()
    assert loss.seen
    for images, rows, _ in loss.seen:
        assert torch.equal(images, to_grid(images))
        levels = to_levels(images)
        assert torch.equal(from_levels(levels), images)
        assert int(pgd.settings.ball.distance(levels, clean[rows]).max()) <= (
            pgd.settings.ball.radius
        )


def test_best_iterate_is_kept_and_belongs_to_its_loss() -> None:
    loss = Landscape(fold=0.5)
    pgd = attack(loss, restarts=2, step_size=9 / 255)
    while not pgd.done:
        pgd.step()
    for row, result in enumerate(pgd.results()):
        shown = [
            (float(losses[list(rows).index(row)]), images[list(rows).index(row)])
            for images, rows, losses in loss.seen
            if row in rows
        ]
        best_loss, best_image = min(shown, key=lambda pair: pair[0])
        assert result.best_loss == pytest.approx(best_loss)
        assert torch.equal(result.best, to_levels(best_image))
        assert result.curve == pytest.approx([one for one, _ in shown])
        assert len(result.curve) == pgd.settings.evaluations == 26
        assert result.passes == 24
        assert result.stopped_step == -1
        assert result.start_loss == result.curve[0] > result.best_loss


def test_stopping_loss_ends_each_row_on_its_own() -> None:
    loss = Landscape()
    pgd = attack(loss, stop_loss=0.12, step_size=1 / 255, steps=40)
    total = 0
    while not pgd.done:
        total += pgd.step().advanced
    assert total == B * pgd.settings.evaluations
    results = pgd.results()
    stopped = [result for result in results if result.stopped_step >= 0]
    assert stopped
    for result in stopped:
        assert result.best_loss == result.curve[-1] <= 0.12
        assert len(result.curve) == result.stopped_step + 1 <= result.passes + 1
        assert all(one > 0.12 for one in result.curve[:-1])
    assert len(loss.seen[-1][1]) <= B
    assert len({len(rows) for _, rows, _ in loss.seen}) > 1


def test_random_starts_differ_by_row_and_restart_but_not_by_batch() -> None:
    loss = Landscape()
    pgd = attack(loss, restarts=2, random_start=True, steps=1)
    while not pgd.done:
        pgd.step()
    # seen: clean (for loss_start), start 1, its step, start 2, its step
    clean, first, _, second, _ = (images for images, _, _ in loss.seen)
    assert torch.equal(clean, from_levels(clean_levels()))
    noise = [(start - clean) for start in (first, second)]
    assert len({tuple(one[row].flatten().tolist()) for one in noise for row in range(B)}) == 2 * B

    alone = Landscape()
    alone.goal = alone.goal[2:3]
    single = ProjectedGradientDescent(
        settings(restarts=2, random_start=True, steps=1),
        loss=alone,
        clean=clean_levels()[2:3],
        row_ids=["b2"],
    )
    while not single.done:
        single.step()
    assert torch.equal(alone.seen[1][0][0], first[2])
    assert single.results()[0].curve == pytest.approx(pgd.results()[2].curve)
    assert single.results()[0].start_loss == pytest.approx(pgd.results()[2].start_loss)


@pytest.mark.parametrize("cut", [1, 7, 13, 14, 20])
def test_resumed_equals_uninterrupted(cut: int) -> None:
    changes = {"momentum": 0.8, "restarts": 2, "stop_loss": 0.12, "schedule": "linear"}
    whole = attack(Landscape(fold=0.2), **changes)
    while not whole.done:
        whole.step()
    first = attack(Landscape(fold=0.2), **changes)
    for _ in range(cut):
        if not first.done:
            first.step()
    second = attack(Landscape(fold=0.2), **changes)
    second.load_state_dict(first.state_dict())
    assert second.advanced == first.advanced
    while not second.done:
        second.step()
    for one, other in zip(whole.results(), second.results(), strict=True):
        assert torch.equal(one.best, other.best)
        assert one.curve == other.curve
        assert (one.passes, one.stopped_step, one.start_loss, one.best_loss) == (
            other.passes,
            other.stopped_step,
            other.start_loss,
            other.best_loss,
        )


def test_state_of_another_attack_is_refused() -> None:
    pgd = attack(Landscape())
    with pytest.raises(ValueError, match="shapes"):
        pgd.load_state_dict(attack(Landscape(), steps=13).state_dict())
    with pytest.raises(ValueError, match="expected"):
        pgd.load_state_dict(attack(Landscape(), momentum=0.5).state_dict())


def test_a_row_whose_loss_is_not_finite_stays_and_harms_no_other() -> None:
    class Broken(Landscape):
        def __call__(self, images: Tensor, rows: Tensor) -> Tensor:
            factor = torch.where(rows == 1, float("nan"), 1.0)
            return super().__call__(images, rows) * factor

    pgd, sound = attack(Broken()), attack(Landscape())
    for one in (pgd, sound):
        while not one.done:
            one.step()
    for row in (0, 2, 3):
        assert pgd.results()[row].curve == sound.results()[row].curve
    assert torch.equal(pgd.results()[1].best, clean_levels()[1])


def test_step_sizes() -> None:
    constant, linear, cosine = (
        settings(schedule=schedule, steps=11) for schedule in ("constant", "linear", "cosine")
    )
    assert {constant.step_size_at(step) for step in range(11)} == {3 / 255}
    for falling in (linear, cosine):
        sizes = [falling.step_size_at(step) for step in range(11)]
        assert sizes[0] == pytest.approx(3 / 255)
        assert sizes[-1] == pytest.approx(0.3 / 255)
        assert sizes == sorted(sizes, reverse=True)
    assert settings(schedule="linear", steps=1).step_size_at(0) == pytest.approx(3 / 255)


def test_a_step_after_the_end_is_an_error() -> None:
    pgd = attack(Landscape(), steps=1)
    pgd.step()
    pgd.step()
    with pytest.raises(RuntimeError, match="done"):
        pgd.step()
