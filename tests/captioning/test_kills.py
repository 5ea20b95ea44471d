"""kill -9 at any moment, again and again: no image twice, none missing, every line whole."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from mmcb.captioning.caption import caption_images
from mmcb.captioning.config import CaptioningConfig
from mmcb.captioning.notes import ImageNote
from mmcb.records import Caption
from mmcb.store import read_records
from tests.captioning.coco_folders import FakeCaptioner, make_coco

ROOT = Path(__file__).parents[2]
NUM_IMAGES = 150


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 images, some of them broken or to be converted."""
    root = make_coco(tmp_path_factory.mktemp("kills") / "coco", train=NUM_IMAGES, val=0)
    for number in range(7, NUM_IMAGES, 20):
        (root / "train2017" / f"{number:012d}.jpg").write_text("<html>404</html>")
        Image.new("L", (9, 9)).save(root / "train2017" / f"{number + 1:012d}.jpg")
    return root


def kill_points(seed: int) -> Iterator[int]:
    """How many lines to wait for before each kill."""
    rng = random.Random(seed)
    return iter(sorted(rng.sample(range(1, NUM_IMAGES - 30), 4)))


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_again_and_again(coco: Path, tmp_path: Path, seed: int) -> None:
    path = tmp_path / "out" / "captions.jsonl"
    command = [sys.executable, "-m", "tests.captioning.slow_captioner", str(coco)]
    command.append(str(path.parent))
    for lines in kill_points(seed):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        while (path.read_bytes().count(b"\n") if path.exists() else 0) < lines:
            assert process.poll() is None, "it ended by itself"
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    subprocess.run(command, cwd=ROOT, check=True)
    captions = list(read_records(path, Caption))
    notes = list(read_records(path.with_name("skipped.jsonl"), ImageNote))
    skipped = {note.image for note in notes if note.status == "skipped"}
    assert len({c.image for c in captions}) == len(captions) == NUM_IMAGES - 8
    assert len({note.id for note in notes}) == len(notes) == 16
    assert len(skipped) == 8
    assert skipped.isdisjoint(c.image for c in captions)


def test_a_note_from_before_a_kill_does_not_outlive_the_caption(tmp_path: Path) -> None:
    root, out = make_coco(tmp_path / "coco", train=2, val=0), tmp_path / "out"
    image = root / "train2017" / "000000000001.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:-200])
    config = CaptioningConfig(coco_root=root, out=out)
    caption_images(config, make=lambda name: FakeCaptioner())
    note = (out / "skipped.jsonl").read_text()
    assert "damaged" in note
    image.write_bytes(whole)
    caption_images(config, make=lambda name: FakeCaptioner())
    # Killed after the caption was written and before the note was settled, it would still be there.
    (out / "skipped.jsonl").write_text(note)
    result = caption_images(config, make=lambda name: FakeCaptioner())
    assert [c.image_id for c in result.captions()] == [1, 2]
    assert (out / "skipped.jsonl").read_text() == ""
