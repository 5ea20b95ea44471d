"""Captioning through a server that breaks down half-way: what was answered stays."""

from pathlib import Path

import pytest

from mmcb.captioning.caption import caption_images
from mmcb.captioning.config import CaptioningConfig
from mmcb.errors import MmcbError
from mmcb.records import Caption
from mmcb.store import read_records
from tests.captioning.coco_folders import make_coco
from tests.generation.fake_server import CUT, EMPTY, GARBAGE, GOOD, SILENT, FakeServer


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        (500, "answered 500"),
        (GARBAGE, "no chat completion"),
        (CUT, "the connection was cut"),
        (EMPTY, "the stream ended"),
        (SILENT, "sent nothing for 1 s"),
    ],
)
def test_a_server_that_breaks_down_loses_only_what_is_in_flight(
    trouble: str | int, sentence: str, tmp_path: Path
) -> None:
    root = make_coco(tmp_path / "coco", train=12, val=0)
    with FakeServer().running() as server:
        config = CaptioningConfig(
            coco_root=root,
            out=tmp_path / "out",
            model="fake-model",
            batch_size=2,
            engine=server.config(concurrency=2, server_retries=0, server_timeout=1.0),
        )
        server.script.extend([GOOD] * 5)
        server.always = trouble
        with pytest.raises(MmcbError, match=sentence) as error:
            caption_images(config)
        assert error.value.hint
        kept = [c.id for c in read_records(tmp_path / "out" / "captions.jsonl", Caption)]
        assert len(kept) == 5
        server.always = GOOD
        server.chats.clear()
        patient = config.model_copy(update={"engine": server.config(concurrency=2)})
        captions = list(caption_images(patient))
        assert len(server.chats) == 12 - 5
    assert len(captions) == 12
    assert {c.id for c in captions} > set(kept)
    assert {c.text for c in captions} == {"re: Describe this image in detail."}
    assert {c.provenance.generator for c in captions} == {"fake-model"}
    assert {c.provenance.settings["engine"] for c in captions} == {"server"}


def test_a_server_without_the_model_is_said_before_any_work(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "coco", train=1, val=0)
    with FakeServer().running() as server:
        config = CaptioningConfig(
            coco_root=root, out=tmp_path / "out", model="llava-next", engine=server.config()
        )
        with pytest.raises(MmcbError, match="no model 'llava-next' on"):
            caption_images(config)
        with pytest.raises(MmcbError, match="tiny-mistral takes no images"):
            caption_images(config.model_copy(update={"model": "tiny-mistral"}))
        assert not server.chats
    assert not (tmp_path / "out").exists()
