"""Transforms that a picture is to survive, against what libraries really do to it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmcb.attacks.core import Losses, Moment
from mmcb.attacks.jpeg import differentiable_jpeg
from mmcb.attacks.transforms import (
    TransformedObjective,
    applied,
    jpeg,
    jpeg_of,
    real_jpeg,
    resize_and_back,
)

NAMES = ("jpeg", "resize", "noise")


def photo(height: int = 61, width: int = 90) -> Tensor:
    """A smooth picture with some texture, in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 5, 7, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    return (smooth + 0.03 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("size", [(61, 90), (64, 96)])
def test_smooth_jpeg_is_near_the_real_one(quality: int, size: tuple[int, int]) -> None:
    image = photo(*size)
    real = real_jpeg(image, quality=quality)
    ours = differentiable_jpeg(image[None], quality=quality)[0]
    error = (ours - real).abs().mean()
    # The real one moves the picture much further than the two differ.
    assert error < 0.35 * (image - real).abs().mean()
    assert error < 2.5 / 255


def test_real_jpeg_is_pillows() -> None:
    image = photo()
    levels = (image * 255).round().to(torch.uint8)
    picture = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
    theirs = np.array(jpeg_of(picture, quality=80))
    ours = (real_jpeg(image, quality=80) * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(ours.astype(np.uint8), theirs)


@pytest.mark.parametrize("gradient", ["differentiable", "straight-through"])
def test_both_jpegs_have_gradients(gradient: str) -> None:
    image = photo().requires_grad_()
    out = jpeg(image, quality=75, gradient=gradient)  # type: ignore[arg-type]
    (grad,) = torch.autograd.grad((out * torch.rand(out.shape)).sum(), image)
    assert torch.isfinite(grad).all()
    assert (grad != 0).float().mean() > 0.9
    if gradient == "straight-through":
        assert torch.equal(out.detach(), real_jpeg(image.detach(), quality=75))


def test_bad_quality_is_refused() -> None:
    with pytest.raises(ValueError, match="quality"):
        differentiable_jpeg(photo()[None], quality=0)


def test_resizing_keeps_smooth_pictures_and_size() -> None:
    smooth = torch.linspace(0, 1, 60)[None, None].expand(3, 40, 60)
    back = resize_and_back(smooth, scale=0.8)
    assert back.shape == smooth.shape
    assert (back - smooth).abs().max() < 0.02
    rough = torch.rand(3, 40, 60)
    assert (resize_and_back(rough, scale=0.75) - rough).abs().mean() > 0.05
    pillow = applied(Image.new("RGB", (60, 40)), ("resize",), quality=75, seed=0)
    assert pillow.size == (60, 40)


class Recorder:
    """Remembers what it was shown."""

    passes = 2

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor, rows: Tensor, moment: Moment) -> Losses:
        self.seen.append(images.detach())
        losses = images.square().mean(dim=(1, 2, 3))
        return Losses(losses, losses * 2)


def make(inner: Recorder, samples: int = 3) -> TransformedObjective:
    return TransformedObjective(inner, names=NAMES, samples=samples, jpeg_quality=60)


def test_loss_is_the_mean_over_draws_and_costs_each_of_them() -> None:
    inner = Recorder()
    eot = make(inner)
    assert eot.passes == 6
    images = torch.stack([photo(), photo().flip(1)]).requires_grad_()
    moment = Moment(0, 3, 10, 7, ("a", "b"))
    losses = eot(images, torch.tensor([0, 1]), moment)
    means = torch.stack([one.square().mean(dim=(1, 2, 3)) for one in inner.seen]).mean(dim=0)
    torch.testing.assert_close(losses.descend.detach(), means)
    torch.testing.assert_close(losses.score, 2 * losses.descend)
    assert not torch.equal(inner.seen[0], inner.seen[1])
    (gradient,) = torch.autograd.grad(losses.descend.sum(), images)
    assert (gradient != 0).float().mean() > 0.9


def test_draws_belong_to_the_row_and_the_step_not_to_the_batch() -> None:
    together, alone, later = Recorder(), Recorder(), Recorder()
    images = torch.stack([photo(), photo().flip(1)])
    make(together)(images, torch.tensor([0, 1]), Moment(0, 3, 10, 7, ("a", "b")))
    make(alone)(images[1:], torch.tensor([0]), Moment(0, 3, 10, 7, ("b",)))
    make(later)(images, torch.tensor([0, 1]), Moment(0, 4, 10, 7, ("a", "b")))
    for both, one, other in zip(together.seen, alone.seen, later.seen, strict=True):
        torch.testing.assert_close(both[1], one[0])
        assert not torch.equal(both, other)
