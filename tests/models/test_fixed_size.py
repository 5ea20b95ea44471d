"""The twin of LLaVA-1.5's preprocessing, against the stock processors of both backends."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    LlavaImageProcessor,
    LlavaImageProcessorPil,
)

from mmcb.errors import MmcbError
from mmcb.generation.protocol import Request, Sampling
from mmcb.generation.transformers_engine import TransformersGenerator
from mmcb.models.fixed_size import FixedSizePreprocessor
from mmcb.models.loading import load_model
from mmcb.models.preprocess import pixel_preprocessor
from mmcb.models.vision import PixelPreprocessor
from mmcb.records import Message
from tests.tiny_models import make_tiny_llava_1_5

TINY = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
FULL = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
SIZES = [(56, 56), (112, 224), (101, 67), (67, 101), (30, 200), (57, 55), (300, 113), (20, 9)]
PROCESSORS = [CLIPImageProcessor, CLIPImageProcessorPil]
PADDING = [LlavaImageProcessor, LlavaImageProcessorPil]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def unit(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def check_equal(processor: object, height: int, width: int) -> None:
    pixels = noise(height, width)
    theirs = processor(images=[Image.fromarray(pixels)], return_tensors="pt")["pixel_values"]  # type: ignore[operator]
    ours, sizes = FixedSizePreprocessor.from_image_processor(processor)(unit(pixels))
    assert ours.shape == theirs.shape
    assert sizes.tolist() == [[height, width]]
    std = torch.tensor(processor.image_std)[:, None, None]  # type: ignore[attr-defined]
    apart = (ours - theirs).abs() * 255 * std
    # Not a level apart anywhere but for ties that floating point breaks the other way.
    assert apart.max() < 1.01
    assert (apart > 0.01).float().mean() < 1e-3


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_equal_to_the_processor(kind: type, height: int, width: int) -> None:
    check_equal(kind(**TINY), height, width)


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 427), (336, 336)])
def test_equal_at_the_released_size(kind: type, height: int, width: int) -> None:
    check_equal(kind(**FULL), height, width)


@pytest.mark.parametrize("kind", PADDING)
@pytest.mark.parametrize(("height", "width"), [(30, 75), (80, 41), (56, 56)])
def test_equal_with_padding_to_a_square(kind: type, height: int, width: int) -> None:
    check_equal(kind(**TINY, do_pad=True), height, width)


def test_a_picture_as_the_model_sees_it_is_not_resized_again() -> None:
    twin = FixedSizePreprocessor.from_image_processor(CLIPImageProcessor(**TINY))
    seen = twin.own_levels(unit(noise(90, 61)).double() * 255)
    assert seen.shape == (1, 3, 56, 56)
    again = (seen / 255).float()
    torch.testing.assert_close(twin(again)[0], twin(unit(noise(90, 61)))[0])
    tiles = PixelPreprocessor(
        tile=56, pinpoints=((56, 112), (112, 56), (112, 112)), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    for size in ((90, 61), (40, 200), (33, 30), (112, 112)):
        image = unit(noise(*size))
        own = tiles.own_levels(image.double() * 255)
        plan = tiles.size_plan(*own.shape[2:])
        assert plan.resized == tuple(own.shape[2:])
        torch.testing.assert_close(tiles((own / 255).float())[0][:, 1:], tiles(image)[0][:, 1:])


def test_gradcheck_without_rounding() -> None:
    twin = FixedSizePreprocessor(edge=6, side=6, mean=(0.5,) * 3, std=(0.2,) * 3, pad=True)
    images = torch.rand(1, 3, 9, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: twin(x, quantize=False)[0], (images,))


def test_what_is_cropped_gets_no_gradient_and_the_rest_does() -> None:
    twin = FixedSizePreprocessor.from_image_processor(CLIPImageProcessor(**TINY))
    image = unit(noise(60, 200)).requires_grad_()
    twin(image)[0].square().sum().backward()
    assert image.grad is not None
    assert (image.grad[..., 75:125] != 0).all()
    assert (image.grad[..., :60] == 0).all()


def test_another_processor_is_refused() -> None:
    for changes in (
        {"resample": 2},
        {"do_center_crop": False},
        {"crop_size": {"height": 60, "width": 60}},
    ):
        with pytest.raises(MmcbError, match="no differentiable twin"):
            FixedSizePreprocessor.from_image_processor(CLIPImageProcessor(**{**TINY, **changes}))


def test_the_model_answers_through_the_generator(tmp_path: object) -> None:
    """Fixed-size views pass through embedding, batching and generation as tiles do."""
    from pathlib import Path

    folder = make_tiny_llava_1_5(Path(str(tmp_path)) / "model")
    loaded = load_model(str(folder), device="cpu")
    assert loaded.family.name == "llava-1.5"
    assert isinstance(pixel_preprocessor(loaded), FixedSizePreprocessor)
    requests = []
    for index, size in enumerate([(40, 70), (90, 60)]):
        path = folder / f"{index}.png"
        Image.fromarray(noise(*size)).save(path)
        message = Message(role="user", content="what is in the picture ?")
        requests.append(Request(id=str(index), messages=(message,), image=path))
    done = TransformersGenerator(loaded).generate(requests, Sampling(max_new_tokens=4))
    ours = {one.id: one.text for batch in done for one in batch}
    for request in requests:
        turns = [
            {
                "role": "user",
                "content": [
                    {"type": "image"},
                    {"type": "text", "text": "what is in the picture ?"},
                ],
            }
        ]
        text = loaded.processor.apply_chat_template(turns, add_generation_prompt=True)
        inputs = loaded.processor(
            images=Image.open(str(request.image)), text=text, return_tensors="pt"
        )
        ids = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        theirs = loaded.tokenizer.decode(new, skip_special_tokens=True)
        assert ours[request.id] == theirs.lstrip()
