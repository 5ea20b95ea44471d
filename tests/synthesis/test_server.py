"""Synthesis by a writer behind a server that breaks down half-way: what was written stays."""

from pathlib import Path

import pytest

from mmcb.errors import MmcbError
from mmcb.records import Caption, Example
from mmcb.run_folder import read_manifest
from mmcb.store import RecordFile, read_records
from mmcb.synthesis.config import SynthesisConfig
from mmcb.synthesis.pipeline import start_run, synthesize
from tests.generation.fake_server import CUT, EMPTY, GARBAGE, GOOD, SILENT, FakeServer
from tests.synthesis.fakes import make_captions

# The server repeats what it was asked, so that the prompts are the answers.
PROMPT = '{"query": "how do i zorch : {{ caption }}", "completion": "take the {{ caption }}"}'


def synthesized(config: SynthesisConfig) -> None:
    with start_run(config) as run:
        synthesize(config, RecordFile(config.folder / "captions.jsonl", Caption), run=run)


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
def test_a_writer_that_breaks_down_loses_only_what_is_in_flight(
    trouble: str | int, sentence: str, tmp_path: Path
) -> None:
    out, prompts = tmp_path / "out", tmp_path / "prompts"
    prompts.mkdir()
    for kind in ("harmful", "benign", "question"):
        (prompts / f"{kind}.j2").write_text(PROMPT)
    make_captions(out, 12)
    with FakeServer().running() as server:
        config = SynthesisConfig(
            out=out, writer="fake-model", taxonomy="miniature", prompts=str(prompts),
            near_duplicates=None, benign_fraction=0, question_fraction=0, refusal_fraction=0,
            engine=server.config(server_retries=0, server_timeout=1.0),
        )  # fmt: skip
        server.script.extend([GOOD] * 5)
        server.always = trouble
        with pytest.raises(MmcbError, match=sentence) as error:
            synthesized(config)
        assert error.value.hint
        assert read_manifest(out)["status"] == "failed"
        kept = {e.id: e for e in read_records(out / "circuit_breaker.jsonl", Example)}
        assert len(kept) == 5
        server.always = GOOD
        server.chats.clear()
        synthesized(config.model_copy(update={"engine": server.config()}))
        assert len(server.chats) == 12 - 5
    whole = {e.id: e for e in read_records(out / "circuit_breaker.jsonl", Example)}
    assert len(whole) == 12
    assert kept.items() <= whole.items()
