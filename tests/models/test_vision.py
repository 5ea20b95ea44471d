import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaNextImageProcessor, LlavaNextImageProcessorPil

from mmcb.errors import MmcbError
from mmcb.models.loading import LoadedModel
from mmcb.models.preprocess import pixel_preprocessor
from mmcb.models.resizer import Resizer, _RoundedResize
from mmcb.models.vision import PixelPreprocessor

TINY = {
    "size": {"shortest_edge": 56},
    "crop_size": {"height": 56, "width": 56},
    "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]],
}
FULL = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
BACKENDS = {"torchvision": LlavaNextImageProcessor, "pil": LlavaNextImageProcessorPil}
SIZES = [(56, 56), (112, 224), (101, 67), (67, 101), (30, 200), (57, 55), (300, 113), (1, 900)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def unit(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def levels_apart(ours: torch.Tensor, theirs: torch.Tensor, std: list[float]) -> torch.Tensor:
    return (ours - theirs).abs() * 255 * torch.tensor(std)[:, None, None]


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_equal_to_the_processor(backend: str, height: int, width: int) -> None:
    processor = BACKENDS[backend](**TINY)
    pixels = noise(height, width)
    theirs = processor(images=[Image.fromarray(pixels)], return_tensors="pt")
    ours, sizes = PixelPreprocessor.from_image_processor(processor)(unit(pixels))
    assert ours.shape == theirs["pixel_values"].shape
    assert sizes.tolist() == theirs["image_sizes"].tolist()
    apart = levels_apart(ours, theirs["pixel_values"], processor.image_std)
    # Not a level apart anywhere but for ties that floating point breaks the other way.
    assert apart.max() < 1.01
    assert (apart > 0.01).float().mean() < 1e-4


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 427), (336, 336)])
def test_equal_to_the_processor_at_the_released_sizes(
    backend: str, height: int, width: int
) -> None:
    processor = BACKENDS[backend](**FULL)
    pixels = noise(height, width)
    theirs = processor(images=[Image.fromarray(pixels)], return_tensors="pt")["pixel_values"]
    ours, _ = PixelPreprocessor.from_image_processor(processor)(unit(pixels))
    apart = levels_apart(ours, theirs, processor.image_std)
    assert apart.max() < 1.01
    assert (apart > 0.01).float().mean() < 1e-4


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((112, 224), (56, 112)),
        ((101, 67), (56, 56)),
        ((30, 200), (17, 112)),
        ((57, 55), (112, 112)),
    ],
)
def test_matrices_are_torchs_own_kernel(source: tuple[int, int], target: tuple[int, int]) -> None:
    """On a CPU its 8-bit kernel runs, elsewhere the matrices: the same levels, and gradient."""
    levels = torch.from_numpy(noise(*source)).permute(2, 0, 1)[None].float().requires_grad_()
    resizer = Resizer("torchvision")
    passes = resizer._passes(source, target, quantize=True, device=levels.device)
    by_kernel = resizer(levels, target, quantize=True)
    by_matrices = _RoundedResize.apply(levels, passes, None)
    assert torch.equal(by_kernel, by_matrices)
    weights = torch.randn(by_kernel.shape, generator=torch.Generator().manual_seed(0))
    gradients = [
        torch.autograd.grad((resized * weights).sum(), levels)[0]
        for resized in (by_kernel, by_matrices)
    ]
    assert torch.equal(*gradients)
    smooth = resizer(levels.double(), target, quantize=False)
    (expected,) = torch.autograd.grad((smooth * weights).sum(), levels)
    torch.testing.assert_close(gradients[0], expected, rtol=1e-3, atol=1e-3)


def test_exact_where_nothing_is_resized() -> None:
    processor = LlavaNextImageProcessor(**FULL)
    pixels = noise(336, 336)
    theirs = processor(images=[Image.fromarray(pixels)], return_tensors="pt")["pixel_values"]
    ours, _ = PixelPreprocessor.from_image_processor(processor)(unit(pixels))
    assert torch.equal(ours, theirs)


def test_a_batch_is_its_images() -> None:
    twin = PixelPreprocessor.from_image_processor(LlavaNextImageProcessor(**TINY))
    images = torch.rand(3, 3, 70, 90, generator=torch.Generator().manual_seed(0))
    together, sizes = twin(images)
    assert sizes.tolist() == [[70, 90]] * 3
    for index in range(3):
        alone, _ = twin(images[index : index + 1])
        assert torch.allclose(alone[0], together[index], atol=1e-6)


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_gradcheck_without_rounding(backend: str) -> None:
    twin = PixelPreprocessor.from_image_processor(
        BACKENDS[backend](
            size={"shortest_edge": 6},
            crop_size={"height": 6, "width": 6},
            image_grid_pinpoints=[[6, 12], [12, 6]],
        )
    )
    images = torch.rand(
        1, 3, 9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: twin(x, quantize=False)[0], (images,))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("fill", [None, 0.0, 1.0])
def test_every_pixel_gets_a_gradient(height: int, width: int, fill: float | None) -> None:
    twin = PixelPreprocessor.from_image_processor(LlavaNextImageProcessor(**TINY))
    image = unit(noise(height, width)) if fill is None else torch.full((1, 3, height, width), fill)
    image.requires_grad_()
    views, _ = twin(image)
    weights = torch.randn(views.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((views * weights).sum(), image)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).all()


def test_rounding_is_what_makes_the_png_equal() -> None:
    twin = PixelPreprocessor.from_image_processor(LlavaNextImageProcessor(**TINY))
    image = torch.rand(1, 3, 80, 60, generator=torch.Generator().manual_seed(0))
    png = (image * 255 + 0.5).floor() / 255
    assert torch.equal(twin(image)[0], twin(png)[0])
    assert not torch.equal(twin(image, quantize=False)[0], twin(png, quantize=False)[0])


def test_from_loaded_reads_the_processor(vlm: LoadedModel, llm: LoadedModel) -> None:
    twin = pixel_preprocessor(vlm)
    assert twin.tile == 56
    assert twin.size_plan(112, 224).num_views == 3
    assert twin.size_plan(112, 224).resized == (56, 112)
    with pytest.raises(MmcbError, match="no images"):
        pixel_preprocessor(llm)


def test_misuse() -> None:
    processor = LlavaNextImageProcessor(**TINY)
    twin = PixelPreprocessor.from_image_processor(processor)
    with pytest.raises(ValueError, match="expected floats"):
        twin(torch.zeros(1, 3, 56, 56, dtype=torch.uint8))
    processor.crop_size = {"height": 28, "width": 28}
    with pytest.raises(MmcbError, match="no differentiable twin"):
        PixelPreprocessor.from_image_processor(processor)
