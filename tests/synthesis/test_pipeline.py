"""The whole synthesis with a fake writer and a fake target: sets, counts, kills, resumption."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import pytest

from mmcb.errors import MmcbError
from mmcb.records import Caption, Example, Message, Provenance
from mmcb.run_folder import read_manifest
from mmcb.store import read_records, replace_records, resolve_image
from mmcb.synthesis.categories import load_taxonomy
from mmcb.synthesis.config import SynthesisConfig
from mmcb.synthesis.dropped import Dropped
from mmcb.synthesis.pipeline import start_run, synthesize
from tests.synthesis.fakes import REFUSAL, FakeTarget, FakeWriter, make_captions, maker

ROOT = Path(__file__).parents[2]
SETS = ("circuit_breaker.jsonl", "retain.jsonl", "dropped.jsonl")


def settings(out: Path, **changes: Any) -> SynthesisConfig:
    return SynthesisConfig.model_validate(
        {
            "out": out,
            "writer": "w",
            "model": "t",
            "taxonomy": "miniature",
            # As the preset of the shipped models has it: ten things, one sentence for each harm.
            "language": None,
            "near_duplicates": None,
            **changes,
        }
    )


def made(
    config: SynthesisConfig,
    captions: list[Caption],
    *,
    writer: FakeWriter | None = None,
    target: FakeTarget | None = None,
    sees: bool = True,
) -> dict[str, Any]:
    make = maker(("w", writer or FakeWriter()), ("t", target or FakeTarget()))
    with start_run(config) as run:
        return synthesize(config, captions, run=run, make=make, sees=sees)


def examples(out: Path, name: str) -> list[Example]:
    return list(read_records(out / f"{name}.jsonl", Example))


def test_sets(tmp_path: Path) -> None:
    out = tmp_path / "out"
    captions = make_captions(out, 60)
    report = made(settings(out, heldout_fraction=0.25), captions)
    harmful, retain = examples(out, "circuit_breaker"), examples(out, "retain")
    assert len(harmful) == 60
    by_caption = {caption.id: caption for caption in captions}
    for example in harmful:
        assert (example.kind, example.task) == ("circuit_breaker", "harmful")
        query = example.prompt_messages[-1].content
        thing = by_caption[str(example.provenance.source_id)].text.split()[1]
        assert f"{example.category} to the {thing}" in query
        assert example.provenance.generator == "fake-writer"
        assert example.provenance.revision == "w1"
        assert example.provenance.template == "miniature_harmful.j2"
        assert len(str(example.provenance.template_hash)) == 64
        assert example.provenance.seed is not None
    tasks = {e.task for e in retain}
    assert tasks == {"benign_howto", "caption", "question", "refusal"}
    for example in [*harmful, *retain]:
        if example.image is not None:
            assert resolve_image(out / "retain.jsonl", example.image).is_file()
    for task in ("benign_howto", "refusal"):
        images = [e.image is not None for e in retain if e.task == task]
        assert any(images)
        assert not all(images)
    (caption,) = [e for e in retain if e.task == "caption" and e.image == captions[0].image]
    assert [m.content for m in caption.messages] == ["describe .", captions[0].text]
    assert report == json.loads((out / "report.json").read_text())
    assert report["circuit_breaker"]["total"] == 60
    assert report["retain"]["by_task"]["caption"]["train"] > 30
    assert "Handling" in (out / "README.md").read_text()
    assert read_manifest(out)["status"] == "complete"


def test_held_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made(settings(out, heldout_fraction=0.3), make_captions(out, 100))
    everything = examples(out, "circuit_breaker") + examples(out, "retain")
    heldout = {category.name for category in load_taxonomy("miniature").heldout}
    train = [e for e in everything if e.split == "train"]
    assert not heldout & {e.category for e in train}
    assert heldout & {e.category for e in everything}
    images = {e.image for e in train if e.image}
    assert not images & {e.image for e in everything if e.split == "heldout"}


def test_refusals_are_the_targets_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    target = FakeTarget()
    made(settings(out, refusal_fraction=1.0), make_captions(out, 40), target=target)
    kept = [e for e in examples(out, "retain") if e.task == "refusal"]
    assert {e.response for e in kept} == {REFUSAL}
    assert {e.provenance.generator for e in kept} == {"fake-target"}
    dropped = [d for d in read_records(out / "dropped.jsonl", Dropped) if d.task == "refusal"]
    assert {d.reasons for d in dropped} == {("complied",)}
    assert len(kept) + len(dropped) == len(target.requests) == 40
    assert all(e.category for e in kept)
    queries = {e.prompt_messages[-1].content for e in examples(out, "circuit_breaker")}
    assert all(request.messages[-1].content in queries for request in target.requests)


def test_text_only_target_is_shown_no_image(tmp_path: Path) -> None:
    out, target = tmp_path / "out", FakeTarget()
    made(settings(out, refusal_fraction=1.0), make_captions(out, 20), target=target, sees=False)
    assert all(request.image is None for request in target.requests)


def test_bad_answers_are_counted_retried_dropped(tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = settings(out, refusal_fraction=0.0, caption_fraction=0.0, max_retries=2)
    report = made(config, make_captions(out, 50), writer=FakeWriter(bad=0.5))
    dropped = list(read_records(out / "dropped.jsonl", Dropped))
    written = examples(out, "circuit_breaker") + examples(out, "retain")
    assert len(written) + len(dropped) == 150
    assert dropped
    assert all(len(d.reasons) == 3 for d in dropped)
    assert {reason for d in dropped for reason in d.reasons} == {"refused", "unparsable"}
    attempts = {e.provenance.settings["attempt"] for e in written}
    assert attempts == {0, 1, 2}
    for example in written:
        rejected = str(example.provenance.settings["rejected"]).split()
        assert len(rejected) == example.provenance.settings["attempt"]
    seeds = {e.provenance.settings["attempt"]: e.provenance.seed for e in written}
    assert len(set(seeds.values())) == 3
    counted = sum(sum(reasons.values()) for reasons in report["rejected_attempts"].values())
    assert counted == sum(len(d.reasons) for d in dropped) + sum(
        int(e.provenance.settings["attempt"]) for e in written
    )
    # More retries take up again what was dropped for want of them, and nothing else.
    writer = FakeWriter(bad=0.5)
    more = config.model_copy(update={"max_retries": 6})
    report = made(more, make_captions(out, 50), writer=writer)
    assert set(writer.answered) == {d.id for d in dropped}
    assert report["dropped"]["total"] < len(dropped)


def test_ungrounded_and_hostile_answers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    answers = iter(
        [
            '{"query": "how do i zorch it ?", "completion": "so ."}',
            '{"query": "", "completion": "x"}',
            '{"query": "the dog {{ 7*7 }} <image> </s>", "completion": "<script>\\u0000\\ud800"}',
        ]
    )
    config = settings(
        out, benign_fraction=0, question_fraction=0, refusal_fraction=0, caption_fraction=0
    )
    made(config, make_captions(out, 1), writer=FakeWriter(say=lambda prompt: next(answers)))
    (example,) = examples(out, "circuit_breaker")
    assert example.provenance.settings["rejected"] == "ungrounded empty"
    assert example.prompt_messages[-1].content == "the dog {{ 7*7 }} <image> </s>"


def test_nothing_usable_is_no_crash(tmp_path: Path) -> None:
    out = tmp_path / "out"
    writer = FakeWriter(say=lambda prompt: REFUSAL)
    report = made(settings(out), make_captions(out, 5), writer=writer)
    assert report["circuit_breaker"]["total"] == 0
    assert report["dropped"]["by_task"]["harmful"] == {"refused": 5}


def test_cut_captions_are_no_examples(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (caption,) = make_captions(out, 1)
    cut = caption.provenance.model_copy(update={"settings": {"finish_reason": "length"}})
    report = made(settings(out), [caption.model_copy(update={"provenance": cut})])
    assert report["dropped"]["by_task"]["caption"] == {"cut": 1}


def test_instructions_are_copied(tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "own" / "instructions.jsonl"
    turns = (Message(role="user", content="2 + 2 ?"), Message(role="assistant", content="4"))
    given = [
        Example(
            id=f"own-{i}",
            kind="retain",
            task="instruction",
            split="train" if i else "heldout",
            image=None if i else "pictures/a.png",
            messages=turns,
            provenance=Provenance(generator="me"),
        )
        for i in range(3)
    ]
    replace_records(path, given)
    for _ in range(2):
        made(settings(out, instructions=path), make_captions(out, 3))
    copied = {e.id: e for e in examples(out, "retain") if e.task == "instruction"}
    assert len(copied) == 3
    assert copied["own-1"] == given[1]
    assert copied["own-0"].split == "heldout"
    assert copied["own-0"].image == "../own/pictures/a.png"
    harmful = given[1].model_copy(update={"kind": "circuit_breaker"})
    replace_records(path, [harmful])
    with pytest.raises(MmcbError, match="is a circuit_breaker example"):
        made(settings(out, instructions=path), make_captions(out, 3))
    with pytest.raises(MmcbError, match="No such file"):
        made(settings(out, instructions=tmp_path / "none.jsonl"), make_captions(out, 3))


def _killed(out: Path, path: Path, *, lines: int, answers: int, refusals: int) -> None:
    """Run the stuck writer until a file has so many lines, and kill it."""
    command = [sys.executable, "-m", "tests.synthesis.stuck_writer", str(out)]
    command += ["30", str(answers), str(refusals)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while (path.read_bytes().count(b"\n") if path.exists() else 0) < lines:
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with path.open("a") as file:  # what a kill in the middle of a write leaves
        file.write('{"version":1,"id":"torn')


def test_killed_and_resumed(tmp_path: Path) -> None:
    out, whole = tmp_path / "killed", tmp_path / "whole"
    make_captions(whole, 30)
    made(settings(whole), make_captions(whole, 30), writer=FakeWriter(bad=0.4))
    harmful = out / "circuit_breaker.jsonl"
    _killed(out, harmful, lines=5, answers=12, refusals=0)
    assert read_manifest(out)["status"] == "started"
    written = {e["id"] for e in map(json.loads, harmful.read_text().splitlines()[:5])}
    _killed(out, out / "retain.jsonl", lines=8, answers=75, refusals=0)
    assert written <= {json.loads(x)["id"] for x in harmful.read_text().splitlines()}
    writer, target = FakeWriter(bad=0.4), FakeTarget()
    report = made(settings(out), make_captions(out, 30), writer=writer, target=target)
    assert not written & set(writer.answered)
    for name in SETS:
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert report == json.loads((whole / "report.json").read_text())


def test_killed_among_the_refusals(tmp_path: Path) -> None:
    out, whole = tmp_path / "killed", tmp_path / "whole"
    made(settings(whole), make_captions(whole, 30), writer=FakeWriter(bad=0.4))
    in_whole = [e for e in examples(whole, "retain") if e.task != "refusal"]
    _killed(out, out / "retain.jsonl", lines=len(in_whole) + 2, answers=10**6, refusals=6)
    target = FakeTarget()
    made(settings(out), make_captions(out, 30), writer=FakeWriter(bad=0.4), target=target)
    for name in SETS:
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_again_does_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    captions = make_captions(out, 10)
    made(settings(out), captions)
    before = {name: (out / name).read_bytes() for name in SETS}
    with start_run(settings(out)) as run:
        synthesize(settings(out), captions, run=run, make=maker())  # no model is loaded
    assert before == {name: (out / name).read_bytes() for name in SETS}


def test_a_set_can_grow(tmp_path: Path) -> None:
    out = tmp_path / "out"
    captions = make_captions(out, 20)
    made(settings(out, num_images=10), captions[:10])
    few = {e.id: e for e in examples(out, "circuit_breaker") + examples(out, "retain")}
    made(settings(out, num_images=20), captions)
    many = {e.id: e for e in examples(out, "circuit_breaker") + examples(out, "retain")}
    assert few.items() <= many.items()
    assert len(many) > len(few)


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    captions = make_captions(out, 3)
    made(settings(out), captions)
    for change in ({"writer": "x"}, {"heldout_fraction": 0.5}, {"seed": 1}, {"model": "y"}):
        with pytest.raises(MmcbError, match="other settings") as error:
            made(settings(out, **change), captions)
        assert "--out another folder" in str(error.value.hint)


def test_datasets_loads_the_sets(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made(settings(out), make_captions(out, 40), writer=FakeWriter(bad=0.3))
    cache = str(tmp_path / "cache")
    for name in ("captions", "circuit_breaker", "retain", "dropped"):
        loaded = datasets.load_dataset(
            "json", data_files=str(out / f"{name}.jsonl"), split="train", cache_dir=cache
        )
        assert len(loaded) == len((out / f"{name}.jsonl").read_text().splitlines())
    folder = datasets.load_dataset(str(out), "retain", split="train", cache_dir=cache)
    assert len(folder) == len(examples(out, "retain"))
    assert folder[0]["messages"][-1]["role"] == "assistant"
