"""Projected gradient descent on a loss that is a formula: everything about it can be computed."""

import pytest
import torch
from torch import Tensor

from mmcb.attacks.core import Losses, Moment, Selection
from mmcb.attacks.embeddings import EmbeddingSpace
from mmcb.attacks.optimiser import StepRule
from mmcb.attacks.pgd import PGDSettings, ProjectedGradientDescent
from mmcb.attacks.pixels import PixelSpace
from mmcb.attacks.threat import PixelBall, from_levels, to_grid, to_levels

B, H, W = 4, 5, 7


class Landscape:
    """A rugged loss per row whose minimum lies outside the ball; remembers what it was shown."""

    def __init__(self, *, fold: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(3)
        self.goal = torch.rand(B, 3, H, W, generator=generator)
        self.fold = fold
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    passes = 1

    def __call__(self, images: Tensor, rows: Tensor, moment: Moment) -> Losses:
        distance = images - self.goal[rows]
        losses = distance.square().mean(dim=(1, 2, 3))
        losses = losses + self.fold * (distance * 90).sin().mean(dim=(1, 2, 3))
        self.seen.append((images.detach().clone(), rows.clone(), losses.detach().clone()))
        return Losses(losses, losses)


def clean_levels() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (B, 3, H, W), generator=generator, dtype=torch.uint8)


RULE = ("step_size", "momentum", "schedule", "kind", "clip")


def settings(**changes: object) -> PGDSettings:
    rule = {"step_size": 3 / 255} | {k: v for k, v in changes.items() if k in RULE}
    rest = {k: v for k, v in changes.items() if k not in (*RULE, "ball")}
    return PGDSettings(rule=StepRule(**rule), **{"steps": 12, **rest})  # type: ignore[arg-type]


def attack(loss: Landscape, **changes: object) -> ProjectedGradientDescent:
    ball = changes.get("ball", PixelBall(32 / 255))
    assert isinstance(ball, PixelBall)
    return ProjectedGradientDescent(
        settings(**changes),
        space=PixelSpace(clean_levels(), ball=ball),
        objective=loss,
        row_ids=[f"b{i}" for i in range(B)],
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
        ball = changes.get("ball", PixelBall(32 / 255))
        assert isinstance(ball, PixelBall)
        assert int(ball.distance(levels, clean[rows]).max()) <= ball.radius


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
        space=PixelSpace(clean_levels()[2:3], ball=PixelBall(32 / 255)),
        objective=alone,
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
        def __call__(self, images: Tensor, rows: Tensor, moment: Moment) -> Losses:
            factor = torch.where(rows == 1, float("nan"), 1.0)
            losses = super().__call__(images, rows, moment).descend * factor
            return Losses(losses, losses)

    pgd, sound = attack(Broken()), attack(Landscape())
    for one in (pgd, sound):
        while not one.done:
            one.step()
    for row in (0, 2, 3):
        assert pgd.results()[row].curve == sound.results()[row].curve
    assert torch.equal(pgd.results()[1].best, clean_levels()[1])


def test_step_sizes() -> None:
    def sizes(schedule: str, steps: int = 11) -> list[float]:
        rule = StepRule(step_size=3 / 255, schedule=schedule)  # type: ignore[arg-type]
        return [rule.step_size_at(step, steps) for step in range(steps)]

    assert set(sizes("constant")) == {3 / 255}
    for schedule in ("linear", "cosine", "halving"):
        falling = sizes(schedule)
        assert falling[0] == pytest.approx(3 / 255)
        assert falling[-1] == pytest.approx(0.3 / 255)
        assert falling == sorted(falling, reverse=True)
        assert sizes(schedule, 1) == pytest.approx([3 / 255])
    assert len(set(sizes("halving", 100))) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"step_size": 1 / 255, "steps": 60},
        {"step_size": 4 / 255, "momentum": 0.5, "schedule": "linear", "steps": 100},
        {"kind": "sgd", "step_size": 30.0, "steps": 60},
        {"kind": "sgd", "step_size": 0.5, "clip": 0.01, "momentum": 0.9, "steps": 300},
        {"kind": "adam", "step_size": 4 / 255, "schedule": "cosine", "steps": 100},
        {"step_size": 2 / 255, "restarts": 2, "random_start": True, "steps": 60},
    ],
)
def test_reaches_the_optimum_of_a_problem_that_has_a_formula(changes: dict[str, object]) -> None:
    """The nearest point of the ball to the goal, on the grid, is known pixel by pixel."""
    loss, ball, clean = Landscape(), PixelBall(32 / 255), clean_levels()
    pgd = attack(loss, **changes)
    while not pgd.done:
        pgd.step()
    lower, upper = ball.bounds(clean)
    optimum = to_grid(torch.maximum(torch.minimum(loss.goal, upper), lower))
    least = (optimum - loss.goal).square().mean(dim=(1, 2, 3))
    for row, result in enumerate(pgd.results()):
        assert result.best_loss == pytest.approx(float(least[row]), abs=2e-5)
        off = (result.best.int() - to_levels(optimum[row]).int()).abs()
        assert int(off.max()) <= 2
        assert result.start_loss > result.best_loss + 0.02


class NearestVectors:
    """Squared distance of vectors from a goal: the optimum in a ball lies on the line to it."""

    passes = 1

    def __init__(self, goal: Tensor) -> None:
        self.goal = goal

    def __call__(self, vectors: Tensor, rows: Tensor, moment: Moment) -> Losses:
        losses = (vectors - self.goal[rows]).square().sum(dim=(1, 2))
        return Losses(losses, losses)


def test_embeddings_share_the_loop_and_keep_to_their_ball() -> None:
    generator = torch.Generator().manual_seed(0)
    start, goal = (torch.randn(2, 3, 8, generator=generator) for _ in range(2))
    space = EmbeddingSpace(start, radius=0.5)
    rule = StepRule(step_size=0.05, kind="sgd")
    pgd = ProjectedGradientDescent(
        PGDSettings(rule=rule, steps=60, restarts=2),
        space=space,
        objective=NearestVectors(goal),
        row_ids=["a", "b"],
    )
    while not pgd.done:
        pgd.step()
    way = goal - start
    optimum = start + way * 0.5 / way.norm(dim=-1, keepdim=True)
    for row, result in enumerate(pgd.results()):
        torch.testing.assert_close(result.best, optimum[row], atol=1e-3, rtol=0)
        assert float((result.best - start[row]).norm(dim=-1).max()) <= 0.5 + 1e-5
    free = EmbeddingSpace(start)
    pgd = ProjectedGradientDescent(
        PGDSettings(rule=rule, steps=200),
        space=free,
        objective=NearestVectors(goal),
        row_ids=["a", "b"],
    )
    while not pgd.done:
        pgd.step()
    torch.testing.assert_close(pgd.results()[0].best, goal[0], atol=1e-3, rtol=0)
    point = free.random_point(0, generator=torch.Generator().manual_seed(1))
    lengths = (point - start[0]).norm(dim=-1)
    torch.testing.assert_close(lengths, start[0].norm(dim=-1))


class Noisy(Landscape):
    """The same loss under noise that hides which iterate is best."""

    passes = 3

    def __call__(self, images: Tensor, rows: Tensor, moment: Moment) -> Losses:
        losses = super().__call__(images, rows, moment).descend
        noise = [torch.randn((), generator=moment.generator(row, "n")) for row in rows.tolist()]
        noisy = losses + torch.stack(noise) * (0.0 if moment.restart < 0 else 1.0)
        return Losses(noisy, noisy)


def test_selection_judges_by_fixed_draws_and_passes_are_the_objectives() -> None:
    def best(selection: Selection | None) -> list[float]:
        pgd = ProjectedGradientDescent(
            settings(steps=60, step_size=1 / 255, stop_loss=-9.0),
            space=PixelSpace(clean_levels(), ball=PixelBall(32 / 255)),
            objective=Noisy(),
            row_ids=[f"b{i}" for i in range(B)],
            selection=selection,
        )
        while not pgd.done:
            pgd.step()
        results = pgd.results()
        assert {result.passes for result in results} == {180}
        images = from_levels(torch.stack([result.best for result in results]))
        rows = torch.arange(B)
        plain = Landscape()(images, rows, Moment(0, 0, 1, 0, "abcd")).descend
        if selection is not None:
            assert [r.best_loss for r in results] == pytest.approx(plain.tolist(), abs=1e-5)
        return plain.tolist()

    by_noise, by_draws = best(None), best(Selection(every=20, draws=3))
    assert sum(by_draws) < sum(by_noise) - 0.01


def test_a_given_start_is_inside_the_ball_and_clean_loss_is_still_told() -> None:
    clean = clean_levels()
    start = (clean.int() + 60).clamp(0, 255).to(torch.uint8)
    space = PixelSpace(clean, ball=PixelBall(32 / 255), start=start)
    loss = Landscape()
    pgd = ProjectedGradientDescent(
        settings(steps=1), space=space, objective=loss, row_ids=[f"b{i}" for i in range(B)]
    )
    pgd.step()
    assert torch.equal(loss.seen[0][0], from_levels(clean))
    first = to_levels(loss.seen[1][0])
    assert int(PixelBall(1.0).distance(first, clean).max()) == 32
    for result, clean_loss in zip(pgd.results(), loss.seen[0][2].tolist(), strict=True):
        assert result.start_loss == pytest.approx(clean_loss)
        assert result.gradient_norms[0] > 0


def test_a_step_after_the_end_is_an_error() -> None:
    pgd = attack(Landscape(), steps=1)
    pgd.step()
    pgd.step()
    with pytest.raises(RuntimeError, match="done"):
        pgd.step()
