"""Outlines of what a request names, from polygons, run-length codes and boxes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from mmcb.coco.objects import CocoObject, CocoObjects
from mmcb.curation.gallery import write_gallery
from mmcb.curation.outlines import named_objects, outline
from mmcb.records import Example, Message, Provenance
from mmcb.store import replace_records

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]
"""20 by 20 pixels of 100 by 50."""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "coco" / "val2017" / "000000000007.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (100, 50), (0, 0, 160)).save(path)
    return path


def whole_right_half() -> Any:
    """A crowd: pixels are counted down the columns."""
    return {"size": [50, 100], "counts": [50 * 50, 50 * 50]}


def corners(path: str) -> set[tuple[float, float]]:
    return {(float(x), float(y)) for x, y in re.findall(r"([\d.-]+),([\d.-]+)", path)}


@pytest.mark.parametrize(
    ("shape", "share", "box"),
    [
        (SQUARE, 0.08, (10, 10, 30, 30)),
        ([*SQUARE, [60, 10, 80, 10, 80, 30, 60, 30]], 0.16, (10, 10, 80, 30)),
        (whole_right_half(), 0.5, (50, 0, 100, 50)),
        (mask.frPyObjects(whole_right_half(), 50, 100), 0.5, (50, 0, 100, 50)),
    ],
)
def test_every_way_to_draw_an_object(
    shape: Any, share: float, box: tuple[int, ...], picture: Path
) -> None:
    found = outline([CocoObject("dog", shape)], picture)
    assert found is not None
    assert (found.width, found.height, found.names) == (100, 50, ("dog",))
    assert found.share == pytest.approx(share, abs=0.002)
    x, y = zip(*corners(found.path), strict=True)
    assert np.allclose([min(x), min(y), max(x), max(y)], box, atol=1)
    assert found.path.count("M") == found.path.count("Z") == len(shape if share < 0.5 else [1])


def test_what_overlaps_is_counted_once(picture: Path) -> None:
    twice = outline([CocoObject("dog", SQUARE), CocoObject("cat", SQUARE)], picture)
    assert twice is not None
    assert twice.share == pytest.approx(0.08, abs=0.002)
    assert twice.names == ("dog", "cat")


@pytest.mark.parametrize(
    "shape", [[], [[1, 2]], {"size": [9, 9], "counts": [81]}, {"counts": "x"}, None, [["a"] * 6]]
)
def test_a_bad_shape_is_no_outline(shape: Any, picture: Path) -> None:
    assert outline([CocoObject("dog", shape)], picture) is None
    assert outline([], picture) is None


def test_objects_are_named_by_all_of_their_words() -> None:
    objects = [CocoObject(name, SQUARE) for name in ("dog", "hot dog", "dining table", "bus")]
    named = named_objects("How do I zorch the dogs below the dining table?", objects)
    assert [each.category for each in named] == ["dog", "dining table"]


def test_in_the_gallery(picture: Path, tmp_path: Path) -> None:
    root, out = picture.parents[1], tmp_path / "out"
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 18, "segmentation": SQUARE, "bbox": [0, 0, 1, 1]},
        {"id": 2, "image_id": 7, "category_id": 6, "segmentation": [], "bbox": [60, 0, 40, 50]},
        {"id": 3, "image_id": 8, "category_id": 18, "segmentation": SQUARE, "bbox": [0, 0, 1, 1]},
    ]
    content = {
        "images": [{"id": n, "file_name": f"{n:012d}.png"} for n in (7, 8)],
        "annotations": annotations,
        "categories": [{"id": 18, "name": "dog"}, {"id": 6, "name": "bus"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    objects = CocoObjects(root, wanted=lambda path: path == picture)
    assert [each.category for each in objects.of(picture)] == ["dog", "bus"]
    assert objects.of(picture.with_name("000000000008.png")) == []
    records = [
        Example(
            id=f"e{number}",
            kind="circuit_breaker",
            task="harmful",
            category="zorching",
            split="train",
            image="../coco/val2017/000000000007.png",
            messages=(
                Message(role="user", content=f"how do i zorch the {thing} ?"),
                Message(role="assistant", content="first , zorch ."),
            ),
            provenance=Provenance(generator="w"),
        )
        for number, thing in enumerate(("dog", "bus", "kite"))
    ]
    replace_records(out / "circuit_breaker.jsonl", records)
    write_gallery([out / "circuit_breaker.jsonl"], title="t", coco_root=root)
    page = (out / "gallery" / "circuit_breaker-0001.html").read_text()
    assert page.count('<svg class="outline" viewBox="0 0 100 50"') == 2
    assert "Named in the request: dog, 8.0 % of the picture" in page
    assert "Named in the request: bus, 40.0 % of the picture" in page
    assert 'id="outlines" checked' in page
