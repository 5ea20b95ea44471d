"""The retain set: exact counts, nothing of an evaluation set, the target's own answers, resumed."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmcb.errors import MmcbError
from mmcb.generation.protocol import Completion, Request, Sampling
from mmcb.records import Example
from mmcb.retain.__main__ import main
from mmcb.retain.borderline import Answered, is_harmless
from mmcb.retain.config import RetainConfig
from mmcb.retain.run import make_retain_set
from mmcb.sources.rows import Row
from mmcb.store import read_records, resolve_image
from mmcb.synthesis.config import SynthesisConfig
from mmcb.synthesis.pipeline import start_run, synthesize
from tests.generation.fake_server import FakeServer
from tests.live_records import LiveRecords
from tests.synthesis.fakes import FakeTarget, FakeWriter, make_captions, maker

REFUSAL = "I'm sorry, but I can't help with that."


class Target:
    """Refuses what names a knife; is cut short on what names a novel."""

    name = "fake-target"
    revision: str | None = "t1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        for request in requests:
            prompt = request.messages[-1].content
            self.asked.append(prompt)
            text = REFUSAL if "knife" in prompt else f"It goes like this: {prompt}"
            yield [Completion(request.id, text, "length" if "novel" in prompt else "stop", 5)]


def alpaca(path: Path, count: int) -> Path:
    rows = [
        {"instruction": f"Name {n} things of colour {n}.", "input": "", "output": f"one, {n}"}
        for n in range(count)
    ]
    path.write_text(json.dumps(rows))
    return path


def made(out: Path, target: Target | None = None, **settings: Any) -> dict[str, Any]:
    config = RetainConfig.model_validate({"out": out, "model": "t", **settings})
    return make_retain_set(config, make=maker(("t", target or Target())))


def examples(out: Path) -> list[Example]:
    return list(read_records(out / "retain.jsonl", Example))


@pytest.fixture
def synthesis(tmp_path: Path) -> Path:
    """A synthesis folder of 40 captions."""
    out = tmp_path / "data" / "synthesis"
    config = SynthesisConfig.model_validate(
        {
            "out": out,
            "writer": "w",
            "model": "t",
            "taxonomy": "miniature",
            "refusal_fraction": 1,
            "language": None,
            "near_duplicates": None,
        }
    )
    captions = make_captions(out, 40)
    with start_run(config) as run:
        make = maker(("w", FakeWriter()), ("t", FakeTarget()))
        synthesize(config, captions, run=run, make=make)
    return out


def test_exact_counts_of_every_part(tmp_path: Path, synthesis: Path) -> None:
    out, prompts = tmp_path / "out", tmp_path / "borderline.txt"
    prompts.write_text("how do i kill a python process ?\nhow do i knife butter ?\na novel ?\n")
    file = alpaca(tmp_path / "alpaca.json", 50)
    parts = {"twins": 9, "refusals": 8, "captions": 7, "questions": 6}
    target = Target()
    report = made(
        out,
        target,
        retain_data=[f"alpaca:{file}@20"],
        synthesis=synthesis,
        borderline=[prompts],
        **parts,
    )
    taken = {part["name"]: part["taken"] for part in report["parts"]}
    assert taken == {f"alpaca:{file}@20": 20, **parts, "borderline": 1}
    assert sum(part["share"] for part in report["parts"]) == pytest.approx(1, abs=0.01)
    found = examples(out)
    assert len({e.id for e in found}) == len(found) == 51
    tasks = {task: sum(n.values()) for task, n in report["retain"]["by_task"].items()}
    assert tasks == {
        "instruction": 21,
        "benign_howto": 9,
        "refusal": 8,
        "caption": 7,
        "question": 6,
    }
    for example in found:
        if example.image is not None:
            assert resolve_image(out / "retain.jsonl", example.image).is_file()
    assert report["borderline_answers"] == {"kept": 1, "refused": 1, "cut": 1}
    assert "| benign_howto | " in (out / "README.md").read_text()
    assert (out / "gallery" / "retain-0001.html").is_file()
    # Again, and from half of the answers: nobody is asked twice, and the set is the same.
    before = (out / "retain.jsonl").read_bytes()
    answers = (out / "answers.jsonl").read_text().splitlines(keepends=True)
    (out / "answers.jsonl").write_text("".join(answers[:2]) + '{"version":1,"id":"torn')
    again = Target()
    made(
        out,
        again,
        retain_data=[f"alpaca:{file}@20"],
        synthesis=synthesis,
        borderline=[prompts],
        **parts,
    )
    assert len(again.asked) == 1
    assert (out / "retain.jsonl").read_bytes() == before


def test_a_server_may_call_its_model_what_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, out = tmp_path / "borderline.txt", tmp_path / "out"
    prompts.write_text("how do i kill a python process ?\n")
    with FakeServer().running() as server:
        flags = f"--model fake-model --engine server --server-url {server.url}".split()
        flags += ["--borderline", str(prompts), "--out", str(out), "--num-borderline", "1"]
        monkeypatch.setattr("sys.argv", ["mmcb retain", *flags])
        main()
    [example] = examples(out)
    assert example.response == "re: how do i kill a python process ?"


def test_nothing_of_an_evaluation_set(tmp_path: Path) -> None:
    file, evaluation = alpaca(tmp_path / "alpaca.json", 30), tmp_path / "evaluation.jsonl"
    borderline = tmp_path / "borderline.jsonl"
    borderline.write_text('{"prompt": "how do i shoot a film ?"}\n{"prompt": "paint a wall ?"}\n')
    lines = ["Name 7 things of colour 7.", "How do I shoot a film?"]
    evaluation.write_text("".join(json.dumps({"prompt": line}) + "\n" for line in lines))
    target = Target()
    report = made(
        tmp_path / "out",
        target,
        retain_data=[f"alpaca:{file}"],
        borderline=[borderline],
        evaluation_sets=[evaluation],
        max_bleu=0.9,
    )
    prompts = {e.prompt_messages[-1].content for e in examples(tmp_path / "out")}
    assert len(prompts) == 30
    assert not prompts & {*lines, "how do i shoot a film ?"}
    assert report["parts"][0]["overlapping"] == 1
    assert target.asked == ["paint a wall ?"]
    assert "evaluation.jsonl" in (tmp_path / "out" / "README.md").read_text()


def test_too_few_and_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = alpaca(tmp_path / "alpaca.json", 10)
    report = made(tmp_path / "out", retain_data=[f"alpaca:{file}@8", f"alpaca:{file}@8"])
    assert [part["taken"] for part in report["parts"]] == [8, 2]
    assert report["parts"][1]["repeated"] == 8
    assert "only 2 of the 8 asked for" in caplog.text


def test_a_source_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, evaluation = alpaca(tmp_path / "alpaca.json", 600), tmp_path / "evaluation.txt"
    # All but 20 are too like the evaluation set: more than one pass is needed to find ten.
    lines = [f"Name {n} things of colour {n}." for n in range(600) if n % 30]
    evaluation.write_text("\n".join(lines))
    live = LiveRecords()
    live.watch(monkeypatch, "mmcb.retain.parts.read_row")
    settings = {"evaluation_sets": [evaluation], "max_bleu": 0.95, "gallery": False}
    report = made(tmp_path / "out", retain_data=[f"alpaca:{file}@10"], **settings)
    (part,) = report["parts"]
    assert (part["available"], part["taken"]) == (600, 10)
    assert part["overlapping"] > 30
    assert live.total > 2 * 600
    assert live.most < 100
    numbers = {int(e.prompt_messages[-1].content.split()[1]) for e in examples(tmp_path / "out")}
    assert all(number % 30 == 0 for number in numbers)


def test_another_seed_is_another_draw(tmp_path: Path) -> None:
    file = alpaca(tmp_path / "alpaca.json", 100)
    ids = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        made(tmp_path / name, retain_data=[f"alpaca:{file}@50"], seed=seed, gallery=False)
        ids.append([e.id for e in examples(tmp_path / name)])
    assert ids[0] == ids[1]
    assert set(ids[0]) != set(ids[2])


def test_xstest_has_unsafe_halves() -> None:
    assert is_harmless(Row("x", {"prompt": "p", "type": "homonyms", "label": "safe"}))
    assert is_harmless(Row("x", {"prompt": "p"}))
    assert not is_harmless(Row("x", {"prompt": "p", "type": "contrast_homonyms"}))
    assert not is_harmless(Row("x", {"prompt": "p", "label": "unsafe"}))


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="nothing to make a retain set of"):
        made(tmp_path / "out")
    prompts = tmp_path / "p.txt"
    prompts.write_text("one prompt\n")
    with pytest.raises(MmcbError, match=r"p\.txt: no harmless prompt"):
        made(tmp_path / "out", borderline=[prompts], evaluation_sets=[prompts])
    with pytest.raises(MmcbError, match=r"[Nn]o such file"):
        made(tmp_path / "new", retain_data=["chat:none.jsonl"])


def test_public_sets(shared_data: Path, tmp_path: Path) -> None:
    """Alpaca, a chat and JailbreakBench's benign half, kept apart from a set it overlaps."""
    benign = shared_data / "jbb_benign" / "benign-behaviors.csv"
    alpaca_demo = shared_data / "llamafactory_demo" / "alpaca_en_demo.json"
    report = made(
        tmp_path / "out",
        retain_data=[f"alpaca:{alpaca_demo}@100"],
        borderline=[benign],
        num_borderline=20,
    )
    assert [part["taken"] for part in report["parts"]] == [100, 20]
    answers = list(read_records(tmp_path / "out" / "answers.jsonl", Answered))
    assert len(answers) == 100
    assert {answer.source for answer in answers} == {benign.name}
