from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmcb.generation import images
from mmcb.generation.images import ImageProblem, image_size, open_image


def pixels(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_png_comes_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels()).save(path)
    image = open_image(path)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels())
    assert image_size(path) == (20, 30)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "1", "P", "I;16", "F", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    if mode == "I;16":
        image = Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels()).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "F", "YCbCr") else "a.png")
    image.save(path)
    opened = open_image(path)
    assert opened.mode == "RGB"
    assert opened.size == (30, 20)
    spread = np.asarray(opened).max() - np.asarray(opened).min()
    assert spread > 100
    if mode == "I;16":
        assert np.array_equal(np.asarray(opened)[..., 0], pixels()[..., 0])


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(path)
    assert np.asarray(open_image(path)).min() == 255


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels()).save(path, exif=exif)
    assert open_image(path).size == (20, 30)
    assert image_size(path) == (30, 20)


def test_huge_images_are_shrunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels(20, 300)).save(path)
    monkeypatch.setattr(images, "MAX_SIDE", 150)
    assert open_image(path).size == (150, 10)
    assert image_size(path) == (10, 150)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such file"), (b"", "empty"), (b"hello", "not an image")]
)
def test_what_is_not_an_image(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    for function in (open_image, image_size):
        with pytest.raises(ImageProblem, match=reason) as caught:
            function(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ImageProblem, match="cut off"):
        open_image(path)


def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels()).save(path)
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ImageProblem, match="too many pixels"):
        open_image(path)
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageProblem, match="too many pixels"):
        image_size(path)
