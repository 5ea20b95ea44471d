"""A COCO folder as an index: layouts, annotations, licences, bad files."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mmcb.coco.index import CocoIndex
from mmcb.coco.licenses import license_numbers
from mmcb.errors import MmcbError
from tests.captioning.coco_folders import make_coco, write_annotations


def keys(index: CocoIndex) -> list[str]:
    return [image.file.key for image in index.images()]


def test_order_is_train_then_val_and_never_test(tmp_path: Path) -> None:
    root = make_coco(tmp_path, train=2, val=2, test=2)
    assert keys(CocoIndex(root)) == [
        "train2017/000000000001.jpg",
        "train2017/000000000002.jpg",
        "val2017/000000000501.jpg",
        "val2017/000000000502.jpg",
    ]
    only_test = CocoIndex(root, splits=("test2017",))
    assert [image.file.split for image in only_test.images()] == ["test2017"] * 2
    turned = CocoIndex(root, splits=("val2017", "train2017"))
    assert keys(turned)[0].startswith("val2017")


def test_annotations(tmp_path: Path) -> None:
    root = make_coco(tmp_path, train=2, val=1)
    first, _, val = CocoIndex(root, captions=True).images()
    assert first.captions == ("a cat on the left 0 .", "a cat on the left 1 .")
    assert (first.categories, first.image_id, first.license) == (("cat",), 1, 2)
    assert val.image_id == 501
    index = CocoIndex(root)
    assert next(index.images()).captions == ()  # people's captions are read only where wanted
    assert index.coverage() == {"bus": 1, "cat": 1, "pizza": 1}
    assert (index.without_annotation, index.without_file) == (0, 0)


def test_no_annotations(tmp_path: Path) -> None:
    (tmp_path / "train2014").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train2014" / "COCO_train2014_000000000009.jpg")
    index = CocoIndex(tmp_path, captions=True)
    (image,) = index.images()
    assert (image.image_id, image.captions, image.categories) == (9, (), ())
    assert (index.files, index.without_annotation) == ([], 0)


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("images", "images"),
        ("images/val2014", "val2014"),
        ("train2017/train2017", "train2017"),
        (".", ""),
        ("unlabeled2017", None),
    ],
)
def test_other_layouts(tmp_path: Path, folder: str, split: str | None) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(tmp_path / folder / "7.PNG")
    (tmp_path / folder / "._7.jpg").write_bytes(b"")  # what macOS leaves behind
    (tmp_path / folder / "notes.txt").write_text("no image")
    if split is None:
        with pytest.raises(MmcbError, match="neither train") as error:
            CocoIndex(tmp_path)
        assert error.value.hint == "name the folder to take: --splits unlabeled2017"
        return
    (image,) = CocoIndex(tmp_path).images()
    assert image.file.split == split
    assert image.file.path == (tmp_path / folder / "7.PNG")


@pytest.mark.parametrize("place", ["annotations", "annotations_trainval2017/annotations"])
def test_flat_folder_takes_any_annotation_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "000000000003.jpg")
    write_annotations(tmp_path, "train2017", [3])
    if place != "annotations":
        (tmp_path / place).parent.mkdir()
        (tmp_path / "annotations").rename(tmp_path / place)
    (image,) = CocoIndex(tmp_path, captions=True).images()
    assert len(image.captions) == 2


def test_test_images_have_licences_too(tmp_path: Path) -> None:
    root = make_coco(tmp_path, train=0, val=0, test=1)
    info = {"images": [{"id": 77, "file_name": "000000000901.jpg", "license": 4}]}
    (root / "annotations").mkdir()
    (root / "annotations" / "image_info_test2017.json").write_text(json.dumps(info))
    (image,) = CocoIndex(root, splits=("test2017",)).images()
    assert (image.image_id, image.license) == (77, 4)


def test_files_and_annotations_that_miss_each_other_are_counted(tmp_path: Path) -> None:
    root = make_coco(tmp_path, train=4, val=0)
    (root / "train2017" / "000000000002.jpg").unlink()
    (root / "train2017" / "000000000003.jpg").unlink()
    Image.new("RGB", (8, 8)).save(root / "train2017" / "extra.png")
    index = CocoIndex(root, captions=True)
    assert (len(index), index.without_annotation, index.without_file) == (3, 1, 2)
    assert [image.image_id for image in index.images()] == [1, 4, None]


def test_missing_things_are_said(tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="no COCO folder at") as error:
        CocoIndex(tmp_path / "none", hint="do this")
    assert error.value.hint is not None
    assert "mmcb.coco.download" in error.value.hint
    assert error.value.hint.endswith("; without: do this")
    with pytest.raises(MmcbError, match="holds no images"):
        CocoIndex(tmp_path)
    (tmp_path / "train2014").mkdir()
    with pytest.raises(MmcbError, match=r"no image in .* \(train2014\)"):
        CocoIndex(tmp_path)
    (tmp_path / "train2014").rmdir()
    make_coco(tmp_path)
    with pytest.raises(MmcbError, match="no image folder 'val2014'") as error:
        CocoIndex(tmp_path, splits=("val2014",))
    assert error.value.hint == "--splits takes: train2017 val2017"


ONE = '{"images": [{"id": 1, "file_name": "000000000001.jpg"}], "annotations": '
BROKEN = {
    "empty": "",
    "cut at once": "{",
    "a list": "[]",
    "no names": '{"images": [{"id": 1}]}',
    "a page": "<html>",
    "a word for a number": '{"images": [{"id": "x"}]}',
    "no lists": "{}",
    "cut later": ONE + '[{"category_id":',
    "nobody's object": ONE + '[{"category_id": 1}]}',
    "not UTF-8": "\xff",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_annotations_are_named(tmp_path: Path, content: str) -> None:
    root = make_coco(tmp_path, train=1)
    path = root / "annotations" / "instances_train2017.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(MmcbError, match=r"instances_train2017\.json is not a COCO annotation file"):
        CocoIndex(root)


def test_the_order_of_lists_in_a_file_does_not_matter(tmp_path: Path) -> None:
    root = make_coco(tmp_path, train=3, val=0)
    before = list(CocoIndex(root).images())
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items()))))
    assert list(CocoIndex(root).images()) == before


NAMES = {4: "Attribution License", 5: "Attribution-ShareAlike License"}


def test_licenses_by_number_and_name() -> None:
    def numbers(*wanted: str) -> list[int]:
        return license_numbers(wanted, names=NAMES, used={1, 4})

    assert numbers("4") == numbers("attribution license") == [4]
    assert numbers("5", "4", "1") == [1, 4, 5]
    with pytest.raises(MmcbError, match="no licence 'GPL'") as error:
        numbers("GPL")
    assert "1 (no name), 4 (Attribution License)" in str(error.value.hint)
    with pytest.raises(MmcbError, match="no annotation file gives the licences"):
        license_numbers(["4"], names=NAMES, used=())


def test_real_annotations(shared_data: Path) -> None:
    index = CocoIndex(shared_data / "coco", captions=True)
    assert len(index) == 150
    assert index.licenses[4] == "Attribution License"
    assert index.without_annotation == 0
    images = list(index.images())
    assert all(image.captions and image.categories for image in images)
    assert {image.license for image in images if image.file.split != "val2014"} <= set(range(1, 9))
