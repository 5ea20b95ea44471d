"""The targeted objective on a small random LLaVA-NeXT, against the model's plain forward pass."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmcb.attacks.image_hijack.subjects import levels_to_image
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.pgd import PGDSettings, ProjectedGradientDescent
from mmcb.attacks.threat import PixelBall, from_levels
from mmcb.models.loading import LoadedModel, load_model
from tests.tiny_models import make_tiny_vlm

PROMPTS = ("how do i zorch the dog ?", "how do i zorch the big red cup , please ?", "zorch it")
TARGETS = (
    "to zorch the dog , first",
    "to zorch the cup",
    "to zorch it , first grab the dog , then",
)
SIZES = [(112, 224), (131, 57), (56, 56), (40, 150)]


@pytest.fixture(scope="module", params=["torchvision", "pil"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = make_tiny_vlm(tmp_path_factory.mktemp("vlm"), backend=request.param)
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def loaded_once(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(str(make_tiny_vlm(tmp_path_factory.mktemp("vlm"))), device="cpu")


def objective(loaded: LoadedModel, size: tuple[int, int], count: int = 3) -> TargetObjective:
    return TargetObjective.prepare(
        loaded, prompts=PROMPTS[:count], targets=TARGETS[:count], image_size=size
    )


def pictures(size: tuple[int, int], count: int = 3) -> Tensor:
    """Smooth pictures with some noise, as photographs are."""
    generator = torch.Generator().manual_seed(size[0])
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bilinear") * 255
    noise = torch.randint(-20, 21, smooth.shape, generator=generator)
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def plain_loss(loaded: LoadedModel, image: Image.Image, prompt: str, target: str) -> float:
    """The same loss the long way: stock processor, text, full logits, one example."""
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    before = loaded.processor.apply_chat_template(turns, add_generation_prompt=True)
    short = loaded.processor(images=image, text=before, return_tensors="pt")
    whole = loaded.processor(images=image, text=f"{before} {target}", return_tensors="pt")
    with torch.no_grad():
        logits = loaded.model(**whole).logits[0]
    ids = whole["input_ids"][0]
    start = short["input_ids"].shape[1]
    return float(F.cross_entropy(logits[start - 1 : -1], ids[start:]))


@pytest.mark.parametrize("size", SIZES)
def test_losses_equal_the_plain_forward_pass(loaded: LoadedModel, size: tuple[int, int]) -> None:
    levels = pictures(size)
    rows = torch.arange(3)
    images = [levels_to_image(one) for one in levels]
    stock = objective(loaded, size).stock_losses(images, rows)
    expected = [
        plain_loss(loaded, image, prompt, target)
        for image, prompt, target in zip(images, PROMPTS, TARGETS, strict=True)
    ]
    assert stock.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_differentiable_losses_equal_the_stock_processors(
    loaded: LoadedModel, size: tuple[int, int]
) -> None:
    levels = pictures(size)
    rows = torch.arange(3)
    target = objective(loaded, size)
    with torch.no_grad():
        twin = target(from_levels(levels), rows)
    stock = target.stock_losses([levels_to_image(one) for one in levels], rows)
    # The twin repeats both backends' 8-bit arithmetic; what is left is the order of float sums.
    assert twin.tolist() == pytest.approx(stock.tolist(), abs=1e-4)


def test_batched_equals_single_whatever_the_lengths(loaded_once: LoadedModel) -> None:
    size = (112, 224)
    images = from_levels(pictures(size))
    target = objective(loaded_once, size)
    leaf = images.clone().requires_grad_()
    together = target(leaf, torch.arange(3))
    (gradients,) = torch.autograd.grad(together.sum(), leaf)
    for row in range(3):
        alone = images[row : row + 1].clone().requires_grad_()
        loss = target(alone, torch.tensor([row]))
        (gradient,) = torch.autograd.grad(loss.sum(), alone)
        assert loss.item() == pytest.approx(together[row].item(), abs=1e-5)
        torch.testing.assert_close(gradient[0], gradients[row], rtol=1e-3, atol=1e-6)


def test_only_pixels_get_gradients(loaded_once: LoadedModel) -> None:
    target = objective(loaded_once, (56, 112))
    leaf = from_levels(pictures((56, 112))).requires_grad_()
    target(leaf, torch.arange(3)).sum().backward()
    assert leaf.grad is not None
    assert float((leaf.grad != 0).float().mean()) > 0.99
    assert all(p.grad is None and not p.requires_grad for p in loaded_once.model.parameters())
    assert not loaded_once.model.training


@pytest.mark.parametrize("size", [(112, 224), (90, 35)])
def test_attack_lowers_the_loss_and_batched_equals_single(
    loaded_once: LoadedModel, size: tuple[int, int]
) -> None:
    clean = pictures(size)
    settings = PGDSettings(ball=PixelBall(32 / 255), steps=12, step_size=4 / 255)

    def run(rows: list[int]) -> ProjectedGradientDescent:
        target = TargetObjective.prepare(
            loaded_once,
            prompts=[PROMPTS[row] for row in rows],
            targets=[TARGETS[row] for row in rows],
            image_size=size,
        )
        pgd = ProjectedGradientDescent(
            settings, loss=target, clean=clean[rows], row_ids=[str(row) for row in rows]
        )
        while not pgd.done:
            pgd.step()
        return pgd

    together = run([0, 1, 2]).results()
    for row, result in enumerate(together):
        assert result.best_loss < result.start_loss - 0.2
        assert result.best_loss == min(result.curve)
        alone = run([row]).results()[0]
        # Signs of near-zero gradients may differ with the batch; the first steps do not.
        assert alone.curve[:3] == pytest.approx(result.curve[:3], abs=2e-2)
        assert alone.best_loss == pytest.approx(result.best_loss, abs=0.15)
