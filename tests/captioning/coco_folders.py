"""COCO folders for tests, and a captioner without a model."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from mmcb.generation.protocol import Completion, Request, Sampling

THINGS = ("dog", "cat", "bus", "pizza", "kite", "clock")


def make_coco(root: Path, *, train: int = 4, val: int = 2, test: int = 0) -> Path:
    """A COCO folder with captions and instances for its train and val images."""
    for split, count, first in (
        ("train2017", train, 1),
        ("val2017", val, 501),
        ("test2017", test, 901),
    ):
        if not count:
            continue
        (root / split).mkdir(parents=True)
        numbers = range(first, first + count)
        for number in numbers:
            color = (number % 256, 40, 90)
            Image.new("RGB", (32, 24), color).save(root / split / f"{number:012d}.jpg")
        if split != "test2017":
            write_annotations(root, split, list(numbers))
    return root


def write_annotations(root: Path, split: str, numbers: Sequence[int]) -> None:
    """captions_SPLIT.json with two captions an image, instances_SPLIT.json with one object."""
    folder = root / "annotations"
    folder.mkdir(exist_ok=True)
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "license": 1 + n % 8} for n in numbers]
    captions = [
        {"id": 10 * n + i, "image_id": n, "caption": f"a {THINGS[n % 6]} on the left {i} .\n"}
        for n in numbers
        for i in range(2)
    ]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(THINGS)]
    instances = [
        {
            "id": 10 * n + i,
            "image_id": n,
            "category_id": 1 + n % 6,
            "bbox": [0, 0, 9, 9],
            "area": 81,
        }
        for n in numbers
        for i in range(2)
    ]
    for kind, content in (
        ("captions", {"annotations": captions}),
        ("instances", {"annotations": instances, "categories": categories}),
    ):
        (folder / f"{kind}_{split}.json").write_text(json.dumps({"images": images, **content}))


class FakeCaptioner:
    """Says which file it was shown. Implements `TextGenerator`."""

    name = "fake-vlm"
    revision: str | None = "r1"

    def __init__(self, answers: dict[str, str] | None = None) -> None:
        self.answers = answers or {}
        self.seen: list[str] = []

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        for start in range(0, len(requests), sampling.batch_size):
            batch = []
            for request in requests[start : start + sampling.batch_size]:
                assert request.image is not None
                name = request.image.name
                self.seen.append(name)
                text = self.answers.get(name, f"a  picture\nof {name}")
                failed = text == "ERROR"
                batch.append(
                    Completion(request.id, "" if failed else text, "error" if failed else "stop", 3)
                )
            yield batch
