"""`mmcb runs ls`, `show`, `compare` on folders as the commands leave them."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mmcb.__main__ import main
from mmcb.runs.found import QUIET_MINUTES, find_runs
from mmcb.runs.outcome import outcome
from tests.evaluation.made_up_results import make_results, rate, save_results

ASR = {
    "base": {"prefill": (10, 10), "image_hijack": (10, 10), "image_hijack_heldout": (9, 10)},
    "defended": {"prefill": (1, 10), "image_hijack": (2, 10), "image_hijack_heldout": (5, 10)},
}


def make_run(folder: Path, command: str, *, day: int = 1, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    manifest = {
        "version": 1,
        "command": command,
        "status": "complete",
        "started": f"2026-01-{day:02}T10:00:00+00:00",
        "finished": f"2026-01-{day:02}T10:00:30+00:00",
        "resumed": [],
        "argv": ["mmcb", command],
        "config": {"model": "tiny-llava-next", "seed": 0, "judges": ["a", "b"]},
        "inputs": {"data": {"path": "data.jsonl", "sha256": "0" * 64}},
        "versions": {"mmcb": "0.1.0"},
        "git": {"commit": "abc", "dirty": True},
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    evaluation = make_run(root / "evaluation/one", "evaluation", day=4)
    (evaluation / "results.json").write_text(json.dumps(make_results(ASR)))
    training = make_run(root / "training/two", "training", day=3)
    log = [
        {"step": 25, "heldout_reroute_cosine": 0.9, "heldout_retain_cosine": 1.0},
        {"step": 150, "heldout_reroute_cosine": 0.123, "heldout_retain_cosine": 0.99},
    ]
    write_lines(training / "metrics.jsonl", log)
    attack = make_run(root / "three", "attacks.gcg", day=2)
    reached = [
        {"model": "base", "measures": {"target_reached": float(k), "passes": 10.0 + 10 * k}}
        for k in (1, 1, 0)
    ]
    write_lines(attack / "attempts.jsonl", [*reached, {"model": "defended", "measures": {}}])
    suite = make_run(root / "suite/mine", "suite", day=5)
    inner = make_run(suite / "attacks/gcg5", "attacks.gcg", day=1)
    write_lines(inner / "attempts.jsonl", reached)
    save_results(suite / "evaluation", make_results(ASR))
    broken = make_run(root / "four", "training", status="failed", error="MmcbError: [stuck]\nmore")
    write_lines(broken / "metrics.jsonl", [])
    (root / "not-ours").mkdir()
    (root / "not-ours/manifest.json").write_text('{"name": "an app"}')
    return root


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str) -> str:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr(sys, "argv", ["mmcb", "runs", *args])
    main()
    return capsys.readouterr().out


def test_ls(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = run(capsys, monkeypatch, "ls", str(root)).splitlines()
    assert [line.split()[-1] for line in lines[::2]] == [
        str(root / name)
        for name in (
            *("suite/mine", "evaluation/one", "training/two", "three", "suite/mine/attacks/gcg5"),
            "four",
        )
    ]
    assert [line.split()[0] for line in lines[::2]] == ["finished"] * 5 + ["failed"]
    assert all(" 10:00  30 s  " in line for line in lines[::2])
    rates = (
        "image hijack: base 100\u00a0%, defended 20\u00a0%; "
        "image hijack, held-out: base 90\u00a0%, defended 50\u00a0%"
    )
    assert [line.strip() for line in lines[1::2]] == [
        *(rates, rates),
        "150 steps, held-out cosine: harmful 0.12, benign 0.99",
        "target reached: 2 of 3 on base (17 passes each), 0 of 1 on defended",
        "target reached: 2 of 3 on base (17 passes each)",
        "MmcbError: [stuck]",
    ]
    attacks = run(capsys, monkeypatch, "ls", str(root), "--kind", "attacks")
    assert str(root / "three") in attacks
    assert str(root / "four") not in attacks
    assert "no such run" in run(capsys, monkeypatch, "ls", str(root), "--model", "other")


def test_a_killed_run_is_told_from_one_that_runs(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "captioning", status="started", finished=None)
    write_lines(folder / "captions.jsonl", [{}, {}])
    (found,) = find_runs(tmp_path)
    written = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for path in (folder, *folder.iterdir()):
        os.utime(path, (written.timestamp(),) * 2)
    assert found.state(written + timedelta(minutes=QUIET_MINUTES - 1)) == "running"
    assert found.state(written + timedelta(minutes=QUIET_MINUTES + 1)) == "stopped"
    assert found.seconds is None
    assert outcome(found) == "2 captions"


def test_show(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    took = {"pgd": {"wall": 65.0, "cpu": 61.0}}
    cell = {**rate(3, 4), "passes": 12.0}
    runs = {"pgd": {"attack": "image_hijack", "train": {"defended": cell}, "heldout": {}}}
    suite = make_run(root / "whole", "suite", seconds=took, hardware="2 cores of abacus")
    (suite / "results.json").write_text(json.dumps({**make_results(ASR), "runs": runs}))
    text = run(capsys, monkeypatch, "show", str(suite))
    words = " ".join(text.split())
    assert "pgd 1 min 05 s, 1 min 01 s of CPU on 2 cores of abacus" in words
    assert "30-95" in text  # the attack's own interval
    text = run(capsys, monkeypatch, "show", str(root / "evaluation/one"))
    assert "took        30 s, pauses included" in text
    assert "judges  a, b" in text
    assert "commit  abc (dirty)" in text
    assert "The image hijack succeeds on 100\u00a0% of behaviors before" in text
    assert "0.200 [0.06, 0.51]" in text
    text = run(capsys, monkeypatch, "show", str(root / "four"))
    assert "MmcbError: [stuck]" in text
    with pytest.raises(SystemExit):
        run(capsys, monkeypatch, "show", str(root / "not-ours"))
    assert "not a run's manifest" in capsys.readouterr().err


def test_compare(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = make_results(ASR, max_new_tokens=512)
    other["judges"]["miniature"]["defended"]["prefill"] = rate(7, 10)
    # A training that ended with an evaluation is named by its own folder.
    inner = root / "training/two/evaluation"
    inner.mkdir()
    (inner / "results.json").write_text(json.dumps(other))
    runs = [str(root / "evaluation/one"), str(root / "training/two")]
    page = tmp_path / "pages/both.html"
    names = ["--names", "mine", "yours", "--out", str(page)]
    text = run(capsys, monkeypatch, "compare", *runs, *names)
    assert "mine, base: tiny-llava-next, in" in text
    assert "0.700" in text
    assert "[0.40, 0.89]" in text
    assert "their numbers do not compare as they are" in text
    assert "max new tokens  96    512" in text
    written = page.read_text(encoding="utf-8")
    assert "Different: max new tokens." in written
    assert "yours" in written


def test_capability_runs_show_their_own_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    score = {"value": 7.53, "low": 7.1, "high": 7.9, "n": 80}
    model = {"score": score, "turns": {}, "categories": {}}
    model |= dict.fromkeys(("no_answer", "cut_at_max_new_tokens", "unreadable"), 0)
    quality = {
        "benchmark": "mt-bench",
        "models": {"base": model, "defended": model},
        "contamination": {"status": "checked", "sets": {}},
        "settings": {"judge": "a-judge"},
    }
    found = {role: {"value": value} for role, value in (("base", 0.591), ("defended", 0.589))}
    rows = {"mmlu": {"acc,none": found}}
    lm_eval = {"tasks": {"mmlu": {"rows": rows}}, "paper_average": {"base": None}}
    for day, (name, results) in enumerate((("lm_eval", lm_eval), ("quality", quality)), start=1):
        run_folder = make_run(tmp_path / name, f"evaluation.{name}", day=day)
        (run_folder / "results.json").write_text(json.dumps(results))
    lines = run(capsys, monkeypatch, "ls", str(tmp_path)).splitlines()
    assert [line.strip() for line in lines[1::2]] == [
        "mt-bench 7.53 -> 7.53",
        "mmlu 0.591 -> 0.589",
    ]
    assert "7.53 [7.10, 7.90] n=80" in run(capsys, monkeypatch, "show", str(tmp_path / "quality"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["three"], "no finished evaluation"),
        (["evaluation/one", "--names", "a", "b"], "2 names for 1 runs"),
        (["evaluation/one", "--out", "page.pdf"], "ends in .html"),
    ],
)
def test_what_cannot_be_compared(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(capsys, monkeypatch, "compare", str(root / args[0]), *args[1:])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_no_heavy_package_is_imported(root: Path) -> None:
    """They answer at once: also where they show an evaluation, and with no GPU stack loaded."""
    code = """
import sys
from pathlib import Path
from mmcb.runs.compare import compare_runs
from mmcb.runs.config import CompareConfig, LsConfig, ShowConfig
from mmcb.runs.ls import list_runs
from mmcb.runs.show import show_run
root, one = Path(sys.argv[1]), Path(sys.argv[1]) / "evaluation/one"
list_runs(LsConfig(root=root))
show_run(ShowConfig(run=one))
compare_runs(CompareConfig(runs=(one,)))
heavy = {"torch", "transformers", "peft", "datasets", "matplotlib", "numpy"} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
