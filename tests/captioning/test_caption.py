import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from mmcb.captioning.caption import Captioned, caption_images
from mmcb.captioning.config import CaptioningConfig, preset
from mmcb.captioning.notes import ImageNote
from mmcb.coco.index import CocoImage
from mmcb.errors import MmcbError
from mmcb.generation.protocol import Completion, Request, Sampling
from mmcb.records import Caption
from mmcb.store import read_records, resolve_image
from tests.captioning.coco_folders import FakeCaptioner, make_coco

ROOT = Path(__file__).parents[2]


def captioned(
    root: Path, out: Path, fake: FakeCaptioner | None = None, **settings: object
) -> Captioned:
    config = CaptioningConfig.model_validate({"coco_root": root, "out": out, **settings})
    return caption_images(config, make=lambda name: fake or FakeCaptioner())


def never(name: str) -> FakeCaptioner:
    raise AssertionError(f"{name} is not needed")


def test_model_captions(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "coco", train=3, val=2, test=2)
    result = captioned(root, tmp_path / "out", batch_size=2)
    records = list(read_records(tmp_path / "out" / "captions.jsonl", Caption))
    assert list(result.captions()) == records
    assert [c.image_id for c in records] == [1, 2, 3, 501, 502]
    first = records[0]
    assert resolve_image(result.path, first.image) == root / "train2017" / "000000000001.jpg"
    assert first.text == "a picture of 000000000001.jpg"
    assert (first.categories, first.license) == (("cat",), 2)
    assert first.provenance.generator == "fake-vlm"
    assert first.provenance.revision == "r1"
    assert first.provenance.settings["prompt"] == "Describe this image in detail."
    assert first.provenance.template_hash is not None
    assert (tmp_path / "out" / "captioning" / "manifest.json").is_file()


def test_human_captions(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "coco", train=2, val=1)
    config = CaptioningConfig(
        coco_root=root, out=tmp_path / "out", source="coco", captions_per_image=2
    )
    result = caption_images(config, make=never)
    assert [c.text for c in list(result.captions())[:2]] == [
        "a cat on the left 0 .",
        "a cat on the left 1 .",
    ]
    assert len(list(result.captions())) == 6
    assert {c.provenance.generator for c in result.captions()} == {"coco"}
    assert list(caption_images(config, make=never).captions()) == list(result.captions())


def test_human_captions_where_there_are_none(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "coco", train=2, val=0)
    path = root / "annotations" / "captions_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 1]
    path.write_text(json.dumps(content))
    config = CaptioningConfig(coco_root=root, out=tmp_path / "out", source="coco")
    for _ in range(2):  # the image without one is no error the second time either
        result = caption_images(config)
        assert [c.image_id for c in result.captions()] == [1]
        assert [note.reason for note in result.notes()] == ["no human caption"]
    path.unlink()
    with pytest.raises(MmcbError, match="no human captions for these images"):
        caption_images(config.model_copy(update={"out": tmp_path / "other"}))


def test_whoever_wrote_it_a_caption_is_a_caption(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "coco", train=2, val=0)
    captioned(root, tmp_path / "out", source="coco", num_images=1)
    fake = FakeCaptioner()
    result = captioned(root, tmp_path / "out", fake)
    assert fake.seen == ["000000000001.jpg"]  # the sample of one took the other
    assert [c.provenance.generator for c in result.captions()] == ["fake-vlm", "coco"]
    assert [c.image_id for c in captioned(root, tmp_path / "out", num_images=1).captions()] == [2]


def test_killed_and_resumed(tmp_path: Path) -> None:
    root, out = make_coco(tmp_path / "coco", train=6, val=3), tmp_path / "out"
    Image.new("L", (9, 9)).save(root / "train2017" / "000000000002.jpg")
    path = out / "captions.jsonl"
    command = [sys.executable, "-m", "tests.captioning.stuck_captioner", str(root), str(out), "4"]
    process = subprocess.Popen(command, cwd=ROOT)
    while (path.read_bytes().count(b"\n") if path.exists() else 0) < 4:
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with path.open("a") as file:
        file.write('{"version":1,"id":"torn')
    with (out / "skipped.jsonl").open("a") as file:
        file.write('{"ver')
    fake = FakeCaptioner()
    resumed = captioned(root, out, fake)
    assert len(fake.seen) == 5  # and not the four that were on disk
    whole = captioned(root, tmp_path / "whole")
    assert [(c.id, c.text) for c in resumed.captions()] == [
        (c.id, c.text) for c in whole.captions()
    ]
    assert [(n.id, n.reason) for n in resumed.notes()] == [(n.id, n.reason) for n in whole.notes()]
    assert len(path.read_text().splitlines()) == 9


def test_bad_images_never_crash(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "coco", train=1, val=0)
    folder = root / "train2017"
    Image.new("L", (20, 10), 9).save(folder / "gray.jpg")
    Image.new("CMYK", (20, 10)).save(folder / "cmyk.jpg")
    Image.new("RGBA", (20, 10)).save(folder / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(folder / "turned.jpg", exif=exif)
    Image.new("L", (9000, 300)).save(folder / "huge.png")
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "page.jpg").write_text("<html>404</html>")
    whole = (folder / "000000000001.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    fake = FakeCaptioner({"alpha.png": "ERROR", "turned.jpg": " "})
    result = captioned(root, tmp_path / "out", fake)
    assert len(list(result.captions())) == 4
    notes = {Path(n.image).name: n for n in result.notes()}
    assert {name for name, n in notes.items() if n.status == "skipped"} == {
        "zero.jpg", "page.jpg", "cut.jpg", "gone.jpg", "alpha.png", "turned.jpg",
    }  # fmt: skip
    assert notes["gray.jpg"].reason == "mode L to RGB"
    assert notes["cmyk.jpg"].reason == "mode CMYK to RGB"
    assert "scaled down from 9000x300" in notes["huge.png"].reason
    assert "empty" in notes["zero.jpg"].reason
    assert "the model failed" in notes["alpha.png"].reason
    assert notes["turned.jpg"].reason == "an empty caption"
    on_disk = list(read_records(tmp_path / "out" / "skipped.jsonl", ImageNote))
    assert len(on_disk) == len({n.id for n in on_disk}) == len(notes)
    # Mended images are captioned by the same command, and no longer listed.
    (folder / "zero.jpg").write_bytes(whole)
    again = captioned(root, tmp_path / "out")
    assert {Path(n.image).name for n in again.notes() if n.status == "skipped"} == {
        "page.jpg", "cut.jpg", "gone.jpg",
    }  # fmt: skip
    assert {Path(n.image).name: n.reason for n in again.notes()}["turned.jpg"].startswith(
        "turned by"
    )


class CountingCaptioner(FakeCaptioner):
    """Counts how many images and records are in memory at once."""

    most = 0

    def __init__(self) -> None:
        super().__init__()
        self.before = self._alive()  # what other tests have left

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        for batch in super().generate(requests, sampling):
            if len(self.seen) % 8 == 0:
                self.most = max(self.most, self._alive() - self.before)
            yield batch

    def _alive(self) -> int:
        kinds = (CocoImage, Caption, ImageNote, Request)
        gc.collect()
        return sum(type(each) in kinds for each in gc.get_objects())


def test_images_pass_through_one_chunk_at_a_time(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "coco", train=80, val=0)
    Image.new("L", (9, 9)).save(root / "train2017" / "000000000007.jpg")
    most = []
    for num_images in (20, 80):
        counting = CountingCaptioner()
        captioned(root, tmp_path / "out", counting, num_images=num_images, batch_size=2)
        most.append(counting.most)
    # A chunk is eight batches: 16 images with their requests, and the captions of one batch.
    assert most[0] <= most[1] <= 40


def test_licences_and_samples(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "coco", train=16, val=0)
    path = root / "annotations" / "instances_train2017.json"
    names = [{"id": n, "name": f"Licence {n}"} for n in range(1, 9)]
    path.write_text(json.dumps({**json.loads(path.read_text()), "licenses": names}))
    result = captioned(root, tmp_path / "out", licenses=("2", "licence 3"), num_images=3)
    assert {c.license for c in result.captions()} == {2, 3}
    assert len(list(result.captions())) == 3
    manifest = json.loads((tmp_path / "out" / "captioning" / "manifest.json").read_text())
    assert {entry["name"] for entry in manifest["licenses"]} == {"Licence 2", "Licence 3"}
    assert sum(manifest["categories"].values()) == 3
    assert manifest["throughput"]["images"] == 3
    with pytest.raises(MmcbError, match="no licence 'GPL'"):
        captioned(root, tmp_path / "out", licenses=("GPL",))
    content = json.loads(path.read_text())
    content["images"] = [{**image, "license": 1} for image in content["images"]]
    path.write_text(json.dumps(content))
    with pytest.raises(MmcbError, match=r"no image in .* is under --licenses 2"):
        captioned(root, tmp_path / "out", licenses=("2",))


def test_what_does_not_fit_together_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_coco(tmp_path / "coco", train=4, val=0)
    (root / "train2017" / "000000000002.jpg").rename(root / "train2017" / "extra.jpg")
    with caplog.at_level("INFO", logger="mmcb"):
        captioned(root, tmp_path / "out")
    assert "1 images stand in no annotation file" in caplog.text
    assert "1 annotated images are not in the folder" in caplog.text
    assert "images/s" in caplog.text
    (root / "annotations" / "instances_train2017.json").write_text("<html>")
    with pytest.raises(MmcbError, match="is not a COCO annotation file"):
        captioned(root, tmp_path / "out")
    assert len(list(read_records(tmp_path / "out" / "captions.jsonl", Caption))) == 4


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1/0", "1", "a/b", "1/2/3"])
def test_shards_that_do_not_exist(shard: str) -> None:
    with pytest.raises(ValueError, match="shard"):
        CaptioningConfig(shard=shard)
    assert CaptioningConfig(shard="2/3").folder == Path("data/synthesis/coco/shards/2-of-3")


def test_folders_are_not_mixed(tmp_path: Path) -> None:
    captioned(make_coco(tmp_path / "a" / "coco"), tmp_path / "out")
    with pytest.raises(MmcbError, match="holds captions of other images"):
        captioned(make_coco(tmp_path / "b" / "coco"), tmp_path / "out")


def test_text_only_model_cannot_caption(tmp_path: Path) -> None:
    config = CaptioningConfig(
        coco_root=make_coco(tmp_path / "coco"), out=tmp_path / "out", model="tiny-mistral"
    )
    with pytest.raises(MmcbError, match="takes no images"):
        caption_images(config)
    assert not (tmp_path / "out").exists()


def test_config(tmp_path: Path) -> None:
    assert CaptioningConfig(coco_root=Path("../x/coco/")).folder == Path("data/synthesis/coco")
    with pytest.raises(ValueError, match="needs --source coco"):
        CaptioningConfig(captions_per_image=2)
    assert preset("tiny-llava-next").max_new_tokens < preset("llava-next").max_new_tokens


def test_missing_coco_on_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmcb.captioning", "--coco-root", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: no COCO folder at ")
    assert "python -m mmcb.miniature && python -m mmcb.captioning" in hint


def test_real_photographs(shared_data: Path, tmp_path: Path) -> None:
    result = captioned(shared_data / "coco", tmp_path / "out", source="coco")
    assert len(list(result.captions())) + sum(n.status == "skipped" for n in result.notes()) == 150
    assert len(list(result.captions())) >= 145
    assert all(c.categories for c in result.captions())
    assert all(resolve_image(result.path, c.image).is_file() for c in result.captions())
