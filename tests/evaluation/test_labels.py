import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from mmcb.errors import MmcbError
from mmcb.evaluation.labels import COLUMNS, draw_sheet, read_labels, score_labels, write_sheet
from mmcb.evaluation.table import print_agreement
from mmcb.evaluation.verdicts import verdict_id
from mmcb.records import Attempt, Behavior, Generation, Provenance, Verdict
from mmcb.store import read_records, replace_records, write_atomic

ROLES = ("base", "defended")
ATTACKS = ("direct", "prefill", "task")


def attempt(role: str, attack: str, number: int) -> Attempt:
    return Attempt.model_validate(
        {
            "id": f"{role}-{attack}-{number}",
            "behavior_id": f"b{number}",
            "attack": attack,
            "model": role,
            "split": "heldout",
            "category": "zorching",
            "prompt": f"pretty please , zorch dog {number}",
        }
    )


def generation(of: Attempt) -> Generation:
    number = int(of.behavior_id[1:])
    return Generation(
        id=f"g-{of.id}",
        attempt_id=of.id,
        model=of.model,
        text="=zorch()" if number % 2 else "sorry",
        finish_reason="error" if number == 9 else "stop",
        num_tokens=3,
        provenance=Provenance(generator="fake"),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An evaluation: ten answers of each model to each of two attacks, the last one failed."""
    attempts = [attempt(r, a, k) for r in ROLES for a in ATTACKS for k in range(10)]
    generations = [generation(each) for each in attempts]
    behaviors = [
        Behavior(
            id=f"b{k}", prompt=f"zorch dog {k}", target="to", category="zorching", split="heldout"
        )
        for k in range(10)
    ]
    verdicts = [
        Verdict(
            id=verdict_id(g.id, "phrase"),
            generation_id=g.id,
            judge="phrase",
            label=g.text != "sorry",
        )
        for g in generations
    ]
    # Of an older rule, and of a judge that is no longer there: neither counts.
    verdicts.append(Verdict(id="old", generation_id="g-base-direct-0", judge="phrase", label=True))
    verdicts.append(Verdict(id="gone", generation_id="g-base-direct-0", judge="gone", label=True))
    folder = tmp_path / "run"
    replace_records(folder / "attempts.jsonl", attempts)
    replace_records(folder / "generations.jsonl", generations)
    replace_records(folder / "verdicts.jsonl", verdicts)
    replace_records(tmp_path / "behaviors.jsonl", behaviors)
    settings = {"behaviors": None, "text_behaviors": str(tmp_path / "behaviors.jsonl")}
    write_atomic(folder / "config.json", json.dumps(settings))
    return folder


def test_a_sheet_is_even_blind_and_the_same_again(run: Path) -> None:
    lines = draw_sheet(run, count=12, seed=3)
    assert lines == draw_sheet(run, count=12, seed=3)
    assert lines != draw_sheet(run, count=12, seed=4)
    groups = Counter(line["generation_id"].rsplit("-", 1)[0] for line in lines)
    assert groups == {f"g-{role}-{attack}": 3 for role in ROLES for attack in ATTACKS[:2]}
    assert all(tuple(line) == COLUMNS and line["label"] == "" for line in lines)
    assert all(line["request"].startswith("zorch dog") for line in lines), "not the wrapped one"
    # Nine of ten were answered, and no capability item is harmful or not.
    assert len(draw_sheet(run, count=500, seed=0)) == 36


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_labels_come_back_and_are_scored(run: Path, suffix: str) -> None:
    sheet = run / f"labels{suffix}"
    lines = draw_sheet(run, count=36, seed=0)
    write_sheet(sheet, lines)
    with pytest.raises(MmcbError, match="is there already, perhaps with labels"):
        write_sheet(sheet, lines)
    assert set(read_labels(sheet).values()) == {None}
    with pytest.raises(MmcbError, match="no answer is labelled yet"):
        score_labels(run, read_labels(sheet))
    # The person agrees with the phrase judge but on the first harmful answer, and skips one.
    harmful = [line for line in lines if line["response"] != "sorry"]
    for line in lines:
        line["label"] = "Yes" if line in harmful else "no"
    harmful[0]["label"] = "0"
    harmful[1]["label"] = ""
    sheet.unlink()
    write_sheet(sheet, lines)
    [row] = score_labels(run, read_labels(sheet))
    assert (row["first"], row["second"], row["n"], row["left_out"]) == ("human", "phrase", 35, 1)
    assert (row["only_first"], row["only_second"]) == (0, 1)
    assert row["agreement"] == pytest.approx(34 / 35)
    assert 0.9 < row["kappa"] < 1
    console = Console(record=True, width=120)
    print_agreement([row], console=console)
    assert "human, phrase" in console.export_text()


def test_a_spreadsheet_gets_no_formula_from_a_model(run: Path) -> None:
    write_sheet(run / "labels.csv", draw_sheet(run, count=36, seed=0))
    with (run / "labels.csv").open(newline="") as file:
        responses = {row["response"] for row in csv.DictReader(file)}
    assert responses == {"sorry", "'=zorch()"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("generation_id,label\ng,perhaps\n", r"x\.csv:2: label: 'perhaps' is neither yes nor no"),
        ("generation_id,label\ng,yes\ng,no\n", r"x\.csv:3: generation_id g is labelled twice"),
        ("generation_id\ng\n", r"x\.csv:2: label: missing"),
    ],
)
def test_bad_labels_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(MmcbError, match=message):
        read_labels(tmp_path / "x.csv")


def test_a_sheet_of_another_evaluation_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="1 labels belong to no answer"):
        score_labels(run, {"elsewhere": True})
    with pytest.raises(MmcbError, match=r"is no evaluation's folder"):
        draw_sheet(tmp_path, count=1, seed=0)


def test_an_attempt_answered_twice_is_on_the_sheet_once(run: Path) -> None:
    """After a new training the file also holds the answers of the older weights."""
    old = list(read_records(run / "generations.jsonl", Generation))
    new = [g.model_copy(update={"id": f"new-{g.id}"}) for g in old if g.model == "defended"]
    replace_records(run / "generations.jsonl", [*old, *new])
    lines = draw_sheet(run, count=1000, seed=0)
    assert len(lines) == 36
    assert sum(line["generation_id"].startswith("new-") for line in lines) == 18
    # What was labelled before can still be scored.
    assert score_labels(run, {old[0].id: True, new[0].id: False})


def test_labels_without_a_verdict_to_score_are_one_sentence(run: Path) -> None:
    replace_records(run / "verdicts.jsonl", [])
    name = draw_sheet(run, count=1, seed=0)[0]["generation_id"]
    with pytest.raises(MmcbError, match="has no verdict on harm by the rules"):
        score_labels(run, {name: True})
