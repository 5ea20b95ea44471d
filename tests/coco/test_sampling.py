"""Which images a sample takes: every category, evenly, and the same ones everywhere."""

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from mmcb.coco.index import CocoIndex
from tests.captioning.coco_folders import make_coco

SHOWN = {"person": 0.6, "chair": 0.3, "kite": 0.1}
"""Share of the images that show each. Three also show a toaster, and the last ten show nothing."""


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 images, as uneven as COCO; empty files do, since nothing looks into them."""
    root = tmp_path_factory.mktemp("uneven")
    (root / "val2017").mkdir()
    (root / "annotations").mkdir()
    rng, numbers, shown = random.Random(0), range(1, 201), []
    for number in numbers:
        (root / "val2017" / f"{number:012d}.jpg").touch()
        if number <= 190:
            shown += [(number, name) for name, share in SHOWN.items() if rng.random() < share]
        if number in (120, 150, 180):
            shown.append((number, "toaster"))
    names = [*SHOWN, "toaster"]
    content = {
        "images": [{"id": n, "file_name": f"{n:012d}.jpg", "license": n % 4} for n in numbers],
        "annotations": [{"image_id": n, "category_id": names.index(name)} for n, name in shown],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


def sample(root: Path, **settings: object) -> list[int]:
    index = CocoIndex(root)
    index.select(**settings)  # type: ignore[arg-type]
    return [image.image_id or 0 for image in index.images()]


def test_categories_are_covered_evenly(uneven: Path) -> None:
    index = CocoIndex(uneven)
    selection = index.select(num_images=40, seed=1)
    assert (selection.images, len(index)) == (40, 40)
    coverage = index.coverage()
    assert coverage["toaster"] == 3  # all there are
    assert sum(not image.categories for image in index.images()) >= 8  # of ten
    # Of 40 images taken evenly, each of the other three categories has its fair share.
    assert min(coverage["kite"], coverage["chair"], coverage["person"]) >= 9
    uniform = random.Random(0).sample(range(1, 201), 40)
    assert sum(number in (120, 150, 180) for number in uniform) < 3


def test_a_larger_sample_holds_the_smaller_one(uneven: Path) -> None:
    samples = [set(sample(uneven, num_images=n)) for n in (1, 7, 40, 199, 200, 5000)]
    assert [len(s) for s in samples] == [1, 7, 40, 199, 200, 200]
    assert all(small < large for small, large in pairwise(samples[:5]))


def test_the_seed_decides_and_the_order_is_that_of_the_folder(uneven: Path) -> None:
    first = sample(uneven, num_images=40, seed=0)
    assert first == sample(uneven, num_images=40, seed=0) == sorted(first)
    assert first != sample(uneven, num_images=40, seed=1)


def test_a_sample_is_the_same_wherever_the_folder_lies(uneven: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(uneven)
    assert sample(uneven, num_images=9) == sample(tmp_path / "link", num_images=9)


def test_without_annotations_it_is_uniform(tmp_path: Path) -> None:
    (tmp_path / "val2017").mkdir()
    for number in range(1, 101):
        (tmp_path / "val2017" / f"{number:012d}.jpg").touch()
    taken = Counter(n for seed in range(40) for n in sample(tmp_path, num_images=25, seed=seed))
    # 10 expected of each image; the file's place must not matter.
    assert len(taken) == 100
    assert 400 <= sum(taken[n] for n in range(1, 51)) <= 600
    assert max(taken.values()) <= 22


def test_licences_come_first_then_the_sample(uneven: Path) -> None:
    assert {n % 4 for n in sample(uneven, num_images=30, licenses=[1, 3])} == {1, 3}
    assert len(sample(uneven, licenses=[2])) == 50


def test_shards_share_a_sample_out(uneven: Path) -> None:
    whole = sample(uneven, num_images=100)
    parts = [sample(uneven, num_images=100, shard=(n, 4)) for n in range(1, 5)]
    assert sorted(n for part in parts for n in part) == whole
    assert all(10 <= len(part) <= 40 for part in parts)
    # By COCO's id alone: another sample puts an image into the same part.
    assert set(parts[0]) <= set(sample(uneven, shard=(1, 4)))


def test_an_image_has_one_part_in_every_layout(tmp_path: Path) -> None:
    new = make_coco(tmp_path / "new", train=30, val=0)
    old = tmp_path / "old" / "train2014"
    old.mkdir(parents=True)
    for number in range(1, 31):
        (old / f"COCO_train2014_{number:012d}.jpg").touch()
    assert sample(new, shard=(2, 3)) == sample(tmp_path / "old", shard=(2, 3))


def test_it_says_what_pycocotools_says(shared_data: Path) -> None:
    from pycocotools.coco import COCO

    root = shared_data / "coco"
    index = CocoIndex(root, captions=True)
    images = {image.file.key: image for image in index.images()}
    for split in ("train2017", "val2017"):
        instances = COCO(str(root / "annotations" / f"instances_{split}.json"))
        captions = COCO(str(root / "annotations" / f"captions_{split}.json"))
        for number, about in instances.imgs.items():
            image = images[f"{split}/{about['file_name']}"]
            objects, said = instances.imgToAnns[number], captions.imgToAnns[number]
            assert image.image_id == number
            assert image.license == about["license"]
            assert set(image.categories) == {
                instances.cats[o["category_id"]]["name"] for o in objects
            }
            assert list(image.captions) == list(
                dict.fromkeys(" ".join(entry["caption"].split()) for entry in said)
            )
