"""Shards: any number of machines make what one would have made, and `merge` says when not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcb.captioning.caption import caption_images
from mmcb.captioning.config import CaptioningConfig, MergeConfig
from mmcb.captioning.merge import merge
from mmcb.errors import MmcbError
from mmcb.records import Caption
from mmcb.run_folder import read_manifest
from mmcb.store import read_records, replace_records, resolve_image
from tests.captioning.coco_folders import FakeCaptioner, make_coco

PARTS = 3


def caption(root: Path, out: Path, shard: str | None = None, **settings: object) -> None:
    config = {"coco_root": root, "out": out, "shard": shard, "num_images": 20, **settings}
    caption_images(CaptioningConfig.model_validate(config), make=lambda name: FakeCaptioner())


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of 24 images, 20 of them captioned in three shards; one image is broken."""
    folder = tmp_path_factory.mktemp("sharded")
    root = make_coco(folder / "coco", train=16, val=8)
    for number in (3, 4, 5):
        (root / "train2017" / f"{number:012d}.jpg").write_text("<html>404</html>")
    for part in range(1, PARTS + 1):
        caption(root, folder / "out", f"{part}/{PARTS}")
    return folder


@pytest.fixture
def out(sharded: Path, tmp_path: Path) -> Path:
    """The shards, in a folder that a test may spoil."""
    shutil.copytree(sharded, tmp_path / "copy")
    return tmp_path / "copy" / "out"


def captions_of(folder: Path) -> list[Caption]:
    return list(read_records(folder / "captions.jsonl", Caption))


def test_shards_make_the_whole(out: Path) -> None:
    parts = [captions_of(out / "shards" / f"{n}-of-{PARTS}") for n in range(1, PARTS + 1)]
    assert all(parts)
    path = merge(MergeConfig(out=out))
    merged = captions_of(out)
    caption(out.parent / "coco", out.parent / "alone")
    assert sorted(merged, key=lambda c: c.id) == sorted(
        captions_of(out.parent / "alone"), key=lambda c: c.id
    )
    assert all(resolve_image(path, c.image).is_file() for c in merged)
    notes = (out / "skipped.jsonl").read_text().splitlines()
    assert len(merged) + len(notes) == 20
    before = path.read_bytes()
    assert merge(MergeConfig(out=out)).read_bytes() == before
    # What comes next in the folder finds everything done.
    caption(out.parent / "coco", out)
    assert path.read_bytes() == before


def test_more_shards_than_images(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "coco", train=2, val=0)
    for part in range(1, 6):
        caption(root, tmp_path / "out", f"{part}/5")
    merge(MergeConfig(out=tmp_path / "out"))
    assert len(captions_of(tmp_path / "out")) == 2


def without_a_line(path: Path) -> None:
    replace_records(path, list(read_records(path, Caption))[1:])


def with_a_line_twice(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[0]]))


def with_a_line_of_another(path: Path) -> None:
    """In place of one of its own, so that the counts are right."""
    other = path.parents[1] / f"1-of-{PARTS}" / path.name
    without_a_line(path)
    path.write_text(path.read_text() + other.read_text().splitlines(keepends=True)[0])


def by_another_model(path: Path) -> None:
    path.write_text(path.read_text().replace('"revision":"r1"', '"revision":"r2"'))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_a_line, "lacks 1 images"),
        (with_a_line_twice, "holds 1 captions twice"),
        (with_a_line_of_another, "both hold caption"),
        (by_another_model, r"different models: fake-vlm \(r1\).*fake-vlm \(r2\)"),
        (lambda path: path.write_text("{}\n"), "not a record with an id"),
    ],
)
def test_records_that_make_no_whole(out: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(out / "shards" / f"2-of-{PARTS}" / "captions.jsonl")
    with pytest.raises(MmcbError, match=message):
        merge(MergeConfig(out=out))
    assert not (out / "captions.jsonl").exists()


def test_shards_that_do_not_belong_together(out: Path) -> None:
    second = out / "shards" / f"2-of-{PARTS}"
    shutil.rmtree(second)
    with pytest.raises(MmcbError, match="lacks shard 2/3") as error:
        merge(MergeConfig(out=out))
    assert "--shard 2/3" in str(error.value.hint)
    caption(out.parent / "coco", out, "2/3", prompt="What is this?")
    with pytest.raises(MmcbError, match="other settings: prompt is 'Describe this"):
        merge(MergeConfig(out=out))
    shutil.rmtree(second)
    shutil.copytree(out.parent / "coco", out.parent / "b" / "coco")
    (out.parent / "b" / "coco" / "val2017" / "000000000501.jpg").unlink()
    caption(out.parent / "b" / "coco", out, "2/3")
    with pytest.raises(MmcbError, match="made from different images"):
        merge(MergeConfig(out=out))
    shutil.rmtree(second)
    caption(out.parent / "coco", out, "2/4")
    with pytest.raises(MmcbError, match="parts of different runs"):
        merge(MergeConfig(out=out))


def test_unfinished_and_renamed_shards(out: Path) -> None:
    manifest = out / "shards" / f"2-of-{PARTS}" / "captioning" / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(whole.replace('"complete"', '"started"'))
    with pytest.raises(MmcbError, match="2-of-3 is not finished: started"):
        merge(MergeConfig(out=out))
    manifest.write_text(whole)
    third = out / "shards" / f"3-of-{PARTS}"
    third.rename(third.with_name("4-of-4"))
    with pytest.raises(MmcbError, match="4-of-4 holds shard 3/3"):
        merge(MergeConfig(out=out))
    with pytest.raises(MmcbError, match="no shards in"):
        merge(MergeConfig(out=out / "none"))


def test_captions_that_no_shard_has_are_not_lost(out: Path) -> None:
    caption(out.parent / "coco", out, None, num_images=None)
    with pytest.raises(MmcbError, match="holds captions that no shard has"):
        merge(MergeConfig(out=out))


def test_a_shard_keeps_its_settings(out: Path) -> None:
    with pytest.raises(MmcbError, match="num_images was 20, now 19"):
        caption(out.parent / "coco", out, "1/3", num_images=19)
    caption(out.parent / "coco", out, "1/3", batch_size=2)


def test_selection_and_throughput_stand_in_the_manifest(sharded: Path) -> None:
    manifests = [
        read_manifest(sharded / "out" / "shards" / f"{n}-of-{PARTS}" / "captioning")
        for n in range(1, PARTS + 1)
    ]
    assert {m["selection"]["images"] for m in manifests} == {20}
    assert sum(m["selection"]["shard_images"] for m in manifests) == 20
    for m in manifests:
        assert m["throughput"]["images"] == m["selection"]["shard_images"]
        assert sum(entry["images"] for entry in m["licenses"]) == m["selection"]["shard_images"]
