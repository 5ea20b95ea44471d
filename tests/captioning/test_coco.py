from pathlib import Path

import pytest
from PIL import Image

from mmcb.captioning.coco import list_images, read_annotations
from mmcb.errors import MmcbError
from tests.captioning.coco_folders import make_coco, write_annotations


def test_order_is_train_then_val_and_never_test(tmp_path: Path) -> None:
    root = make_coco(tmp_path, train=2, val=2, test=2)
    keys = [image.key for image in list_images(root)]
    assert keys == [
        "train2017/000000000001.jpg",
        "train2017/000000000002.jpg",
        "val2017/000000000501.jpg",
        "val2017/000000000502.jpg",
    ]
    assert [image.key for image in list_images(root, limit=3)] == keys[:3]
    assert [image.split for image in list_images(root, splits=("test2017",))] == ["test2017"] * 2
    assert list_images(root, splits=("val2017", "train2017"))[0].split == "val2017"


def test_annotations(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = make_coco(tmp_path, train=2, val=1)
    first, _, val = read_annotations(root, list_images(root))
    assert first.captions == ("a cat on the left 0 .", "a cat on the left 1 .")
    assert (first.categories, first.image_id, first.license) == (("cat",), 1, 2)
    assert val.image_id == 501
    assert capfd.readouterr().out == ""  # pycocotools prints


def test_no_annotations(tmp_path: Path) -> None:
    (tmp_path / "train2014").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train2014" / "COCO_train2014_000000000009.jpg")
    (image,) = read_annotations(tmp_path, list_images(tmp_path))
    assert (image.image_id, image.captions, image.categories) == (9, (), ())


@pytest.mark.parametrize(
    ("folder", "split"),
    [("images", "images"), ("images/val2014", "val2014"), (".", ""), ("unlabeled2017", None)],
)
def test_other_layouts(tmp_path: Path, folder: str, split: str | None) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(tmp_path / folder / "7.PNG")
    (tmp_path / folder / "._7.jpg").write_bytes(b"")  # what macOS leaves behind
    (tmp_path / folder / "notes.txt").write_text("no image")
    if split is None:
        with pytest.raises(MmcbError, match="neither train") as error:
            list_images(tmp_path)
        assert error.value.hint == "name the folder to take: --splits unlabeled2017"
        return
    (image,) = list_images(tmp_path)
    assert image.split == split
    assert image.path == (tmp_path / folder / "7.PNG")


def test_flat_folder_takes_any_annotation_file(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "000000000003.jpg")
    write_annotations(tmp_path, "train2017", [3])
    (image,) = read_annotations(tmp_path, list_images(tmp_path))
    assert len(image.captions) == 2


def test_missing_things_are_said(tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="no COCO folder at") as error:
        list_images(tmp_path / "none", hint="do this")
    assert error.value.hint == "do this"
    with pytest.raises(MmcbError, match="holds no images"):
        list_images(tmp_path)
    make_coco(tmp_path)
    with pytest.raises(MmcbError, match="no image folder 'val2014'") as error:
        list_images(tmp_path, splits=("val2014",))
    assert error.value.hint == "--splits takes: train2017 val2017"


@pytest.mark.parametrize("content", ["{", "[]", '{"images": [{"id": 1}]}', "<html>"])
def test_broken_annotations_are_named(tmp_path: Path, content: str) -> None:
    root = make_coco(tmp_path, train=1)
    (root / "annotations" / "captions_train2017.json").write_text(content)
    with pytest.raises(MmcbError, match=r"captions_train2017\.json is not a COCO annotation file"):
        read_annotations(root, list_images(root))
