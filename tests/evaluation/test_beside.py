"""Runs of other commands in the evaluation's report, as those commands write them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mmcb.errors import MmcbError
from mmcb.evaluation.beside import read_beside
from mmcb.evaluation.capability_runs import PAPER_AVERAGE
from mmcb.evaluation.comparison import columns_of
from mmcb.evaluation.lm_eval.config import PAPER_METRICS, PAPER_TASKS, split_task
from mmcb.evaluation.lm_eval.summary import summarize
from mmcb.evaluation.lm_eval.tasks import LoadedTask
from mmcb.evaluation.quality.questions import set_name
from mmcb.evaluation.quality.run import measure_quality
from mmcb.evaluation.report.capability_runs import capability_run_rows
from mmcb.evaluation.report.page import render_page
from mmcb.evaluation.weights import same_weights
from tests.evaluation.made_up_results import evaluation, make_results
from tests.evaluation.quality.test_quality import Fake, llava_bench, mt_bench

WEIGHTS = {"base": "mistral", "defended": "mistral+a"}
ASR = {"base": {"direct": (6, 10)}, "defended": {"direct": (0, 10)}}


def lm_eval_run(folder: Path, *, limit: int | None = None, **weights: str) -> Path:
    """What `evaluation.lm_eval` writes for the paper's six, through its own summary."""
    tasks = [
        LoadedTask(name, shots, "hub", [], {name: None})
        for name, shots in (split_task(text) for text in PAPER_TASKS)
    ]
    outcomes = {
        role: {task.name: _outcome(task, 0.1 * k + shift) for k, task in enumerate(tasks, start=1)}
        for role, shift in (("base", 0.0), ("defended", 0.05))
    }
    results = summarize(tasks, outcomes)
    results["settings"] = {"weights": {**WEIGHTS, **weights}, "limit": limit}
    return finished_run(folder, "evaluation.lm_eval", **results)


def finished_run(folder: Path, command: str, **results: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"command": command, "status": "complete", "started": "2026-01-01T00:00:00+00:00"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def capability_of(folder: Path, *, weights: Mapping[str, str]) -> dict[str, Any]:
    return read_beside([folder], weights=weights, judge="miniature").capability


def _outcome(task: LoadedTask, value: float) -> dict[str, Any]:
    metrics = {"other,none": {"value": 0.9, "stderr": None}}
    metrics[PAPER_METRICS[task.name]] = {"value": value, "stderr": 0.03}
    return {
        "metrics": {task.name: metrics},
        "n": {task.name: 100},
        "shots": {task.name: task.shots},
        "task_versions": {},
        "task_hashes": {},
        "items": {},
    }


def test_the_papers_six_and_their_mean(tmp_path: Path) -> None:
    runs = capability_of(lm_eval_run(tmp_path / "lm"), weights=WEIGHTS)
    assert set(runs) == {*PAPER_METRICS, PAPER_AVERAGE}
    arc = runs["arc_challenge"]
    # The leaderboard's metric, not the first; Wilson's interval of 20 of 100.
    assert (arc["base"]["value"], arc["base"]["n"]) == (pytest.approx(0.2), 100)
    assert arc["base"]["low"] == pytest.approx(0.133, abs=1e-3)
    assert arc["how"] == "lm-eval, acc_norm, 25 shots"
    average = runs[PAPER_AVERAGE]["defended"]
    assert average["value"] == pytest.approx(0.4)
    # Six means of standard error 0.03: that of their mean is 0.03 / sqrt(6).
    assert average["high"] - average["value"] == pytest.approx(1.96 * 0.03 / 6**0.5, abs=1e-4)


def test_mt_bench_and_llava_bench_as_their_command_writes_them(tmp_path: Path) -> None:
    judge = Fake(lambda request: "[[6]]" if "Assistant" in request.messages[0].content else "8 6")
    (tmp_path / "mt").mkdir()
    config = mt_bench(tmp_path / "mt")
    results = measure_quality(
        config, make_answerer=lambda _: Fake(lambda r: "re"), make_judge=lambda: judge
    )
    weights = results["settings"]["weights"]
    assert config.out is not None
    row = capability_of(config.out, weights=weights)["mt-bench"]
    assert (row["base"]["value"], row["scale"]) == (6.0, "number")
    assert row["how"] == "1 to 10, judge some/judge"
    (tmp_path / "llava").mkdir()
    config = llava_bench(tmp_path / "llava")
    results = measure_quality(
        config,
        make_answerer=lambda _: Fake(lambda r: "re"),
        make_judge=lambda: Fake(lambda r: "8 6"),
    )
    assert config.out is not None
    weights = results["settings"]["weights"]
    row = capability_of(config.out, weights=weights)["llava-bench-coco"]
    assert (row["base"]["value"], row["scale"]) == (0.75, "share")
    assert set_name("llava-bench", []) == "llava-bench-wild"


def test_what_is_of_other_weights_or_measured_twice_is_refused(tmp_path: Path) -> None:
    one, two = lm_eval_run(tmp_path / "one"), lm_eval_run(tmp_path / "two", limit=5)
    with pytest.raises(MmcbError, match=r"and .*two both have mmlu"):
        read_beside([one, two], weights=WEIGHTS, judge="miniature")
    other = lm_eval_run(tmp_path / "other", defended="mistral+b")
    with pytest.raises(MmcbError, match=r"defended model has other weights \(mistral\+b, not"):
        capability_of(other, weights=WEIGHTS)
    # What runs the weights may differ.
    elsewhere = {"base": "vllm:mistral@bfloat16", "defended": "vllm:mistral@bfloat16+a"}
    assert "mmlu" in capability_of(one, weights=elsewhere)
    # A server does not tell its weights; a base alone has no defended column.
    served = lm_eval_run(tmp_path / "served", defended="server:mistral")
    assert "defended" in capability_of(served, weights=WEIGHTS)["mmlu"]
    assert "defended" not in capability_of(other, weights={"base": "mistral"})["mmlu"]


def test_what_is_no_such_run_or_by_another_judge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="not a run's folder"):
        capability_of(tmp_path, weights=WEIGHTS)
    training = finished_run(tmp_path / "t", "training")
    with pytest.raises(MmcbError, match="training leaves nothing to put into a report"):
        capability_of(training, weights=WEIGHTS)
    settings = {"weights": WEIGHTS, "judges": ["phrase"]}
    many = finished_run(tmp_path / "many", "evaluation", settings=settings, runs={"direct": {}})
    with pytest.raises(MmcbError, match="judged by phrase, not by miniature"):
        capability_of(many, weights=WEIGHTS)
    assert read_beside([many], weights=WEIGHTS, judge="phrase").attacks == {"many: direct": {}}
    (many / "manifest.json").write_text((many / "manifest.json").read_text().replace("compl", "x"))
    with pytest.raises(MmcbError, match="many: not finished"):
        capability_of(many, weights=WEIGHTS)


def test_the_report_shows_them_beside_the_papers(tmp_path: Path) -> None:
    results = make_results(ASR, model="mistral")
    run = lm_eval_run(tmp_path / "lm", limit=100)
    results["capability_runs"] = capability_of(run, weights=WEIGHTS)
    columns = columns_of([evaluation("a", results)])
    rows = {row.name: row for row in capability_run_rows(columns)}
    assert rows["Open LLM, mean of six"].cells[1].rate["value"] == pytest.approx(0.4)
    page = render_page(
        [evaluation("a", results)], title="t", command="c", show_harmful=False, num_hijacks=0
    )
    assert "As published: lm-eval" in page
    # Once among our numbers and once in the paper's row.
    assert page.count("lm-eval, acc_norm, 25 shots, the first 100 items of each task") == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("mistral-1a", "mistral-1a", True),
        ("vllm:mistral-1a+2b", "mistral-1a@bfloat16+2b", True),
        ("vllm:mistral-1a+2b", "vllm:mistral-1a+3c", False),
        ("mistral-1a", "mistral-9f", False),
        ("server:mistral", "mistral-1a", True),
    ],
)
def test_weights_are_the_same_whatever_runs_them(one: str, other: str, same: bool) -> None:
    assert same_weights(one, other) is same
