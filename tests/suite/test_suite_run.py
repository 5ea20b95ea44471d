"""The suite command on a random LLaVA-NeXT: every kind of attack, one evaluation, resume."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from mmcb.errors import MmcbError
from mmcb.evaluation.runs_table import print_runs, run_rows
from mmcb.records import Attempt, Behavior, Task
from mmcb.run_folder import read_manifest
from mmcb.store import read_records, replace_records
from mmcb.suite.commands import Command
from mmcb.suite.config import SuiteConfig
from mmcb.suite.run import run_suite
from tests.attacks.attack_worlds import make_world

SUITE = """
[[attack]]
name = "pgd"
command = "attacks.image_hijack"
steps = 2
num_behaviors = 2

[[attack]]
name = "adaptive"
command = "attacks.image_hijack"
preset = "adaptive"
target_tokens = 2
steps = 1

[[attack]]
name = "transfer"
command = "attacks.image_hijack"
target_models = "base"
steps = 1

[[attack]]
name = "vectors"
command = "attacks.embedding"
steps = 1
images = false

[[attack]]
name = "tokens"
command = "attacks.gcg"
start_text = " zorch"
steps = 1
search_width = 2
images = false

[[attack]]
name = "tokens-alone"
command = "attacks.gcg"
on = "text"
start_text = " zorch"
steps = 1
search_width = 2

[[attack]]
name = "steering"
command = "attacks.steering"
images = false

[[attack]]
name = "check"
command = "attacks.check"
steps = 4

[[attack]]
name = "best-of-n"
command = "evaluation"
attacks = ["direct"]
samples = 2
temperature = 1.0
max_new_tokens = 2

[evaluation]
attacks = ["direct", "prefill"]
max_new_tokens = 2
judges = ["phrase"]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world(tmp_path_factory.mktemp("suite"))
    (world / "suite.toml").write_text(SUITE, encoding="utf-8")
    pictured = list(read_records(world / "behaviors.jsonl", Behavior))[:2]
    plain = [b.model_copy(update={"id": f"t{b.id}", "image": None}) for b in pictured]
    # Attacked with and without pictures, by what each command takes.
    replace_records(world / "behaviors.jsonl", [*pictured, *plain])
    other = [b.model_copy(update={"id": f"u{b.id}"}) for b in plain]
    replace_records(world / "text_behaviors.jsonl", other)
    cases = {b.id: [f"please , {b.prompt}"] for b in pictured}
    file = world / "PAIR/default/test_cases/test_cases.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(cases), encoding="utf-8")
    replace_records(
        world / "tasks.jsonl",
        [Task(id="f", task="fact", prompt="what is one plus one ?", references=("2 .",))],
    )
    return world


def settings(world: Path, **changes: object) -> SuiteConfig:
    values: dict[str, object] = {"suite": str(world / "suite.toml"), "model": str(world / "model")}
    values |= {"adapter": str(world / "runs/training/one"), "device": "cpu"}
    values |= {"behaviors": world / "behaviors.jsonl", "tasks": world / "tasks.jsonl"}
    values |= {"text_behaviors": world / "text_behaviors.jsonl"}
    values |= {"cases": (world / "PAIR/default/test_cases/test_cases.json",)}
    return SuiteConfig.model_validate({**values, "out": world / "out", **changes})


def test_every_attack_is_run_judged_and_not_run_again(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    run = Command.run
    started: list[str] = []

    def counted(command: Command, config: object) -> None:
        started.append(command.runner)
        if len(started) == 4:
            raise KeyboardInterrupt
        run(command, config)  # type: ignore[arg-type]

    monkeypatch.setattr(Command, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        run_suite(settings(world))
    assert read_manifest(world / "out")["status"] == "interrupted"
    results = run_suite(settings(world))
    # Three were done before the interruption; the fourth and what follows once more.
    assert len(started) == 3 + 1 + 6
    assert len(set(started)) == 6
    seconds = read_manifest(world / "out")["seconds"]
    assert list(seconds) == [
        *("pgd", "adaptive", "transfer", "vectors", "tokens", "tokens-alone"),
        *("steering", "check", "best-of-n"),
        "evaluation",
    ]
    _check_results(world / "out", results)

    started.clear()
    again = run_suite(settings(world))
    assert started == []
    assert again["runs"] == results["runs"]


def _check_results(out: Path, results: dict[str, object]) -> None:
    runs = results["runs"]
    assert isinstance(runs, dict)
    made = {"pgd", "adaptive", "transfer", "vectors", "tokens", "tokens-alone", "steering"}
    assert set(runs) == {"direct", "prefill", "PAIR", *made, "best-of-n: direct"}
    for name in ("pgd", "adaptive", "vectors", "tokens"):
        for split in ("train", "heldout"):
            roles = runs[name][split]
            assert set(roles) == {"base", "defended", "transfer"}
            assert all(cell["n"] == 1 for cell in roles.values())
            assert roles["defended"]["passes"] > 0
    # One pass a step; on the defended model the adaptive attack runs the frozen one too.
    assert runs["pgd"]["train"]["base"]["passes"] == 2
    assert runs["pgd"]["train"]["defended"]["passes"] == 2
    assert runs["adaptive"]["heldout"]["defended"]["passes"] == 2
    assert set(runs["transfer"]["train"]) == {"base", "transfer"}
    rows = dict(run_rows(runs))
    assert rows["best-of-n: direct, any"]["train"]["base"]["n"] == 3
    assert rows["best-of-n: direct"]["train"]["base"]["n"] == 3
    assert rows["transfer, shown"]["train"]["defended"]["n"] == 1
    # What other processes found stands in the one report.
    checks = results["checks"]
    assert isinstance(checks, list)
    assert [check["run"] for check in checks] == ["check"]
    assert (out / "attacks/check/checks.json").is_file()
    page = (out / "evaluation/report.html").read_text(encoding="utf-8")
    assert "Attack by attack" in page
    assert "Are the attacks strong enough?" in page
    assert '<th scope="row">best-of-n: direct<br>' in page
    assert '<th scope="row">adaptive<br>' in page
    attempts = list(read_records(out / "evaluation/attempts.jsonl", Attempt))
    hijacks = {a.settings.get("run") for a in attempts if a.attack == "image_hijack"}
    assert hijacks == {"pgd", "adaptive", "transfer"}
    console = Console(record=True, width=80)
    print_runs(results, console=console)
    text = console.export_text()
    assert all(name in text for name in ("trained", "defended", "best-of-n: direct", "passes"))
    assert "\u2026" not in text  # nothing is cut off at 80 columns
    lines = (out / "table.md").read_text(encoding="utf-8").splitlines()
    assert {line.count("|") for line in lines} == {7}
    assert any(line.startswith("| pgd | ") and " of 1 (" in line for line in lines)


def test_processes_at_once_do_the_same_and_name_what_fails(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    suite = tmp_path / "suite.toml"
    entry = '[[attack]]\nname = "{}"\ncommand = "attacks.gcg"\nstart_text = "{}"\nsteps = 1\n'
    entry += "search_width = 2\nimages = false\n"
    suite.write_text(entry.format("good", " zorch") + entry.format("bad", "  "), encoding="utf-8")
    out = tmp_path / "out"
    with pytest.raises(MmcbError, match=r"^bad: .*start"):
        run_suite(settings(world, suite=str(suite), out=out, jobs=2))
    assert read_manifest(out)["status"] == "failed"
    # What was running beside it is whole, and what any process would have found.
    assert read_manifest(out / "attacks/good")["status"] == "complete"
    alone = _losses(world / "out/attacks/tokens/attempts.jsonl")
    assert _losses(out / "attacks/good/attempts.jsonl") == alone
    assert "wrote" in (out / "logs/good.txt").read_text(encoding="utf-8")


def _losses(path: Path) -> list[float]:
    return [round(a.measures["loss_float"], 3) for a in read_records(path, Attempt)]


def test_other_settings_of_an_attack_are_refused_in_the_same_folder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    suite = tmp_path / "suite.toml"
    text = '[[attack]]\nname = "tokens"\ncommand = "attacks.gcg"\nstart_text = " zorch"\n'
    text += 'images = false\nsearch_width = 2\nsteps = {}\n[evaluation]\njudges = ["phrase"]\n'
    text += "attacks = []\nmax_new_tokens = 2\n"
    suite.write_text(text.format(1), encoding="utf-8")
    config = settings(world, suite=str(suite), out=tmp_path / "out", num_behaviors=1)
    results = run_suite(config)
    assert set(results["runs"]) == {"tokens", "PAIR"}
    assert json.loads((tmp_path / "out/attacks/tokens/config.json").read_text())["steps"] == 1
    suite.write_text(text.format(2), encoding="utf-8")
    with pytest.raises(MmcbError, match="steps was 1, now 2"):
        run_suite(config)
