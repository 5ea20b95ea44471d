"""What is in memory while a synthesis runs: a round's records, however many captions there are."""

from pathlib import Path

import pytest

from mmcb.records import Caption
from mmcb.store import RecordFile
from mmcb.synthesis.config import SynthesisConfig
from mmcb.synthesis.pipeline import start_run, synthesize
from tests.live_records import LiveRecords
from tests.synthesis.fakes import FakeTarget, FakeWriter, make_captions, maker

ROUND = 16


def live_in_a_run(out: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> LiveRecords:
    make_captions(out, count)
    live = LiveRecords()
    with monkeypatch.context() as patch:
        patch.setattr("mmcb.synthesis.stage.ROUND", ROUND)
        patch.setattr("mmcb.synthesis.retain.ROUND", ROUND)
        patch.setattr("mmcb.curation.gallery.PER_PAGE", ROUND)
        for name in (
            "mmcb.store.parse_record",
            "mmcb.record_index.parse_record",
            "mmcb.synthesis.writer._example",
            "mmcb.synthesis.retain._caption_example",
            "mmcb.synthesis.retain._answered",
        ):
            live.watch(patch, name)
        config = SynthesisConfig(
            out=out, writer="w", model="t", taxonomy="miniature", batch_size=4, language=None
        )
        make = maker(("w", FakeWriter(bad=0.3)), ("t", FakeTarget()))
        with start_run(config) as run:
            report = synthesize(
                config, RecordFile(out / "captions.jsonl", Caption), run=run, make=make
            )
    assert report["dropped"]["by_task"]["harmful"]["duplicate"] > 0
    return live


def test_records_in_memory_do_not_grow_with_the_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = live_in_a_run(tmp_path / "few" / "out", 60, monkeypatch)
    many = live_in_a_run(tmp_path / "many" / "out", 240, monkeypatch)
    assert many.total > 3 * few.total
    assert many.most <= few.most + 2
    assert many.most <= 3 * ROUND
