"""The L-infinity ball on 8-bit pixels."""

import pytest
import torch

from mmcb.attacks.threat import PixelBall, from_levels, to_grid, to_levels


def test_grid_and_levels_are_one_thing() -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(3).view(3, 16, 16)
    images = from_levels(levels)
    assert torch.equal(to_levels(images), levels)
    assert torch.equal(to_grid(images), images)
    # 0.6 of a level rounds up; torchvision's to_pil_image would truncate it.
    assert torch.equal(to_levels(images + 0.4 / 255), levels)
    assert int(to_levels(torch.full((3, 1, 1), 7.6 / 255))[0, 0, 0]) == 8


@pytest.mark.parametrize(
    ("epsilon", "radius"), [(32 / 255, 32), (8 / 255, 8), (0.0, 0), (1.0, 255), (0.125, 31)]
)
def test_radius_is_whole_levels_within_epsilon(epsilon: float, radius: int) -> None:
    assert PixelBall(epsilon).radius == radius


def test_projection_clips_to_the_ball_and_the_range() -> None:
    clean = torch.tensor([0, 10, 250], dtype=torch.uint8).view(1, 3, 1, 1)
    ball = PixelBall(32 / 255)
    for far, expected in ((-1.0, [0, 0, 218]), (2.0, [32, 42, 255])):
        projected = ball.project(torch.full((1, 3, 1, 1), far), clean)
        assert to_levels(projected).flatten().tolist() == expected
        assert torch.equal(projected, to_grid(projected))
    inside = torch.full((1, 3, 1, 1), 0.05)
    assert torch.equal(ball.project(inside, clean)[:, :2], inside[:, :2])


def test_random_points_fill_the_ball() -> None:
    clean = torch.full((3, 40, 40), 128, dtype=torch.uint8)
    ball = PixelBall(4 / 255)
    point = ball.random_point(clean, generator=torch.Generator().manual_seed(0))
    changes = set((to_levels(point).int() - 128).flatten().tolist())
    assert changes == set(range(-4, 5))
    assert int(ball.distance(to_levels(point)[None], clean[None])[0]) == 4


def test_epsilon_outside_the_unit_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="epsilon"):
        PixelBall(32.0)
