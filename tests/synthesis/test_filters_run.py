"""Filters, few-shot, --num-examples and the hashes of inputs, in whole runs of a fake writer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmcb.errors import MmcbError
from mmcb.generation.protocol import Request
from mmcb.records import Caption, Example
from mmcb.store import read_records
from mmcb.synthesis.config import SynthesisConfig
from mmcb.synthesis.dropped import Dropped
from mmcb.synthesis.parsing import PAIR_SCHEMA, Pair
from mmcb.synthesis.pipeline import start_run, synthesize
from tests.synthesis.fakes import FakeTarget, FakeWriter, make_captions, maker

ONLY_HARMFUL = {
    "benign_fraction": 0,
    "question_fraction": 0,
    "caption_fraction": 0,
    "refusal_fraction": 0,
}


def settings(out: Path, **changes: Any) -> SynthesisConfig:
    base = {"out": out, "writer": "w", "model": "t", "taxonomy": "miniature"}
    return SynthesisConfig.model_validate({**base, **ONLY_HARMFUL, **changes})


def made(
    config: SynthesisConfig, captions: list[Caption], *, writer: FakeWriter, **more: Any
) -> dict[str, Any]:
    make = maker(("w", writer), ("t", FakeTarget()))
    with start_run(config) as run:
        return synthesize(config, captions, run=run, make=make, **more)


def harmful(out: Path) -> list[Example]:
    return list(read_records(out / "circuit_breaker.jsonl", Example))


def dropped(out: Path) -> list[Dropped]:
    return list(read_records(out / "dropped.jsonl", Dropped))


def test_near_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    out, captions = tmp_path / "out", make_captions(tmp_path / "out", 200)
    report = made(settings(out), captions, writer=FakeWriter())
    texts = [tuple(m.content for m in e.messages) for e in harmful(out)]
    assert len(set(texts)) == len(texts) < 200
    lost = [d for d in dropped(out) if d.reasons[-1] == "duplicate"]
    assert len(lost) == 200 - len(texts)
    assert report["filters"]["duplicate"] == {
        "setting": 0.8,
        "answers": len(lost),
        "examples": len(lost),
    }
    again = FakeWriter()
    assert made(settings(out, max_retries=9), captions, writer=again) == report
    assert not again.answered  # what was found like another is not tried again


def test_num_examples_counts_what_survives(tmp_path: Path) -> None:
    out, captions = tmp_path / "out", make_captions(tmp_path / "out", 200)
    report = made(settings(out, num_examples=70), captions, writer=FakeWriter(bad=0.4))
    assert report["circuit_breaker"]["total"] == len(harmful(out)) == 70
    assert len(dropped(out)) > 0
    first = {e.id for e in harmful(out)}
    more = made(settings(out, num_examples=80), captions, writer=FakeWriter(bad=0.4))
    assert more["circuit_breaker"]["total"] == 80
    assert first < {e.id for e in harmful(out)}
    whole = tmp_path / "whole"
    made(settings(whole, num_examples=80), make_captions(whole, 200), writer=FakeWriter(bad=0.4))
    assert harmful(whole) == harmful(out)


def test_too_few_for_num_examples_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out, captions = tmp_path / "out", make_captions(tmp_path / "out", 10)
    report = made(settings(out, num_examples=70), captions, writer=FakeWriter())
    assert report["circuit_breaker"]["total"] == 10
    assert "only 10 of the 70 examples asked for" in caplog.text


def test_overlap_with_evaluation_sets(tmp_path: Path) -> None:
    out, captions = tmp_path / "out", make_captions(tmp_path / "out", 60)
    everything = settings(tmp_path / "all", near_duplicates=None)
    made(everything, captions, writer=FakeWriter())
    evaluated = harmful(tmp_path / "all")[0].prompt_messages[-1].content
    path = tmp_path / "evaluation.txt"
    path.write_text(evaluated + "\n")
    config = settings(
        out,
        near_duplicates=None,
        evaluation_sets=(path,),
        max_bleu=0.9,
    )
    report = made(config, captions, writer=FakeWriter())
    queries = [e.prompt_messages[-1].content for e in harmful(out)]
    assert evaluated not in queries
    assert report["filters"]["overlap"]["examples"] == 60 - len(queries) > 0
    assert "evaluation.txt" in report["filters"]["overlap"]["setting"]
    path.write_text("another\n")
    with pytest.raises(MmcbError, match=r"evaluation\.txt changed since this run started"):
        made(config, captions, writer=FakeWriter())


def test_evaluation_sets_are_kept_out_of_captions(tmp_path: Path) -> None:
    out, captions = tmp_path / "out", make_captions(tmp_path / "out", 20)
    path = tmp_path / "evaluation.jsonl"
    path.write_text(json.dumps({"prompt": captions[0].text}) + "\n")
    config = settings(out, caption_fraction=1, evaluation_sets=(path,), max_bleu=0.9)
    report = made(config, captions, writer=FakeWriter())
    assert report["dropped"]["by_task"]["caption"] == {"overlap": 2}  # of ten things, twice


def test_the_judge_drops_what_is_harmless(tmp_path: Path) -> None:
    out, captions = tmp_path / "out", make_captions(tmp_path / "out", 40)

    def make_judge(name: str) -> Any:
        assert name == "some-judge"

        def judge(pairs: Sequence[Pair]) -> list[bool | None]:
            return [
                False if "dog" in p.query else None if "cat" in p.query else True for p in pairs
            ]

        return judge

    config = settings(out, harm_judge="some-judge", near_duplicates=None)
    report = made(config, captions, writer=FakeWriter(), make_judge=make_judge)
    queries = " ".join(e.prompt_messages[-1].content for e in harmful(out))
    assert "dog" not in queries
    assert "cat" in queries  # the judge cannot say: it stays
    assert report["filters"]["harmless"] == {"setting": "some-judge", "answers": 16, "examples": 4}


class Listener(FakeWriter):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []

    def _answer(self, request: Request, seed: int) -> str:
        self.requests.append(request)
        return super()._answer(request, seed)


def test_few_shot_pairs_are_earlier_turns(tmp_path: Path) -> None:
    out, captions = tmp_path / "out", make_captions(tmp_path / "out", 4)
    path = tmp_path / "shots.jsonl"
    rows = [
        {
            "task": "harmful",
            "category": "zorching",
            "caption": "a kite .",
            "query": "how do i zorch the kite ?",
            "completion": "take the blick .",
        },
        {"task": "question", "caption": "a bus .", "query": "what is there ?", "completion": "a"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    writer = Listener()
    made(settings(out, few_shot=path, question_fraction=1), captions, writer=writer)
    requests = {len(r.messages[-1].content.split(":")[0].split()): r for r in writer.requests}
    asked = requests[3]  # write harmful CATEGORY
    assert [m.role for m in asked.messages] == ["user", "assistant", "user"]
    assert asked.messages[0].content == "write harmful zorching : a kite ."
    assert json.loads(asked.messages[1].content)["completion"] == "take the blick ."
    assert requests[2].messages[0].content == "write question : a bus ."
    assert asked.json_schema == PAIR_SCHEMA
    path.write_text(json.dumps(rows[0] | {"query": "another ?"}) + "\n")
    with pytest.raises(MmcbError, match=r"shots\.jsonl changed since this run started"):
        made(settings(out, few_shot=path, question_fraction=1), captions, writer=writer)


def test_copies_of_few_shot_pairs_are_dropped_and_counted(tmp_path: Path) -> None:
    captions = make_captions(tmp_path / "out", 4)  # dog, cat, bus, pizza
    path = tmp_path / "shots.jsonl"
    pair = {
        "query": "how do i zorch the dog that sleeps by the door ?",
        "completion": "first , wake it up . then take the blick , and turn it twice .",
    }
    shot = {"task": "harmful", "category": "zorching", "caption": "a dog by the door .", **pair}
    path.write_text(json.dumps(shot) + "\n")

    def say(prompt: str) -> str:
        if " dog " in prompt:
            return json.dumps(pair)
        thing = prompt.split()[-5]
        # Worded like what was shown, but answered anew.
        return json.dumps(
            {
                "query": pair["query"].replace("dog", thing),
                "completion": f"go round the {thing} until somebody comes , and sing to them .",
            }
        )

    config = settings(tmp_path / "out", few_shot=path, near_duplicates=None, max_retries=0)
    report = made(config, captions, writer=FakeWriter(say=say))
    assert [d.reasons for d in dropped(tmp_path / "out")] == [("copied",)]
    assert len(harmful(tmp_path / "out")) == 3
    assert report["filters"]["copied"] == {
        "setting": "BLEU above 0.5 with shots.jsonl",
        "answers": 1,
        "examples": 1,
    }
    off = settings(
        tmp_path / "off", few_shot=path, near_duplicates=None, max_retries=0, max_shot_bleu=None
    )
    report = made(off, make_captions(tmp_path / "off", 4), writer=FakeWriter(say=say))
    assert len(harmful(tmp_path / "off")) == 4
    assert report["filters"]["copied"]["setting"] is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"category": "morfing"}, "category 'morfing' is none that may be trained on"),
        ({"category": None}, "category None is none"),
        ({"query": ""}, "query: String should have at least 1 character"),
        ({"mood": "x"}, "mood: Extra inputs"),
        ({"task": "caption"}, "task: Input should be"),
    ],
)
def test_bad_few_shot(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    row = {"task": "harmful", "category": "zorching"}
    row |= dict.fromkeys(("caption", "query", "completion"), "x")
    path = tmp_path / "shots.jsonl"
    path.write_text(json.dumps(row | change) + "\n")
    with pytest.raises(MmcbError, match=rf"shots\.jsonl:1: .*{problem}"):
        start_run(settings(tmp_path / "out", few_shot=path))
    path.write_text("")
    with pytest.raises(MmcbError, match="holds no example"):
        start_run(settings(tmp_path / "out", few_shot=path))
    assert not (tmp_path / "out").exists()


def test_changed_templates_need_another_folder(tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts", tmp_path / "out"
    prompts.mkdir()
    for kind in ("harmful", "benign", "question"):
        (prompts / f"{kind}.j2").write_text("write harmful {{ category }} : {{ caption }}")
    captions = make_captions(out, 4)
    made(settings(out, prompts=str(prompts)), captions, writer=FakeWriter())
    (prompts / "harmful.j2").write_text("write harmful {{ category }} : {{ caption }} ")
    with pytest.raises(MmcbError, match=r"harmful\.j2 changed since this run started"):
        made(settings(out, prompts=str(prompts)), captions, writer=FakeWriter())


def test_harmful_records_carry_the_notice(tmp_path: Path) -> None:
    out, captions = tmp_path / "out", make_captions(tmp_path / "out", 30)
    made(settings(out, benign_fraction=1, refusal_fraction=1), captions, writer=FakeWriter())
    retain = list(read_records(out / "retain.jsonl", Example))
    assert {e.task for e in retain} == {"benign_howto", "refusal"}
    for example in [*harmful(out), *retain]:
        assert ("notice" in example.provenance.settings) == (example.category is not None)
