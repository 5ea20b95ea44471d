"""The suite command: every attack in turn, then one evaluation of all they left."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from mmcb.evaluation.config import EvaluationConfig
from mmcb.evaluation.runs_table import runs_markdown
from mmcb.evaluation.weights import find_adapter
from mmcb.log import get_logger
from mmcb.models.locate import locate
from mmcb.run_folder import RunDir, read_manifest
from mmcb.store import write_atomic
from mmcb.suite.config import COMMAND, SuiteConfig
from mmcb.suite.file import Suite, read_suite
from mmcb.suite.processes import Seconds, run_stages, timed
from mmcb.suite.stages import Stage, attack_stages, evaluation_config

MAY_CHANGE = frozenset(
    {"suite", "judges", "only", "num_behaviors", "device", "tasks", "jobs"}
    | {"cases", "translations", "scripts"}
)
"""Whether an attack's own settings may change, its own folder says."""

_log = get_logger(__name__)


def run_suite(config: SuiteConfig) -> dict[str, Any]:
    """Run what is missing of a suite; the results of its evaluation, as in results.json.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    suite = read_suite(config.suite)
    family = locate(config.model).family
    adapter = find_adapter(config.adapter, model=config.model)
    out = output_folder(config, suite)
    text_only = family is not None and family.kind == "llm"
    stages = attack_stages(config, suite, adapter=adapter, text_only=text_only, out=out)
    evaluation = evaluation_config(config, suite, stages, adapter=adapter, out=out)
    resolved = config.model_copy(update={"adapter": str(adapter or "none")})
    inputs = {"behaviors": config.behaviors, "adapter": adapter}
    with RunDir.start(
        out,
        command=COMMAND,
        config=resolved,
        inputs={name: path for name, path in inputs.items() if path is not None},
        may_change=MAY_CHANGE,
    ) as run:
        done = [stage.name for stage in stages if finished(stage)]
        if done:
            _log.info("done before: %s", ", ".join(done))
        run_stages(
            [stage for stage in stages if stage.name not in done],
            jobs=config.jobs,
            logs=run.path / "logs",
            note=partial(_note, run),
        )
        _log.info("== judge and report")
        results = _evaluate(evaluation, run)
        write_atomic(run.path / "table.md", runs_markdown(results))
        _log_seconds(run.path)
    return results


def _evaluate(config: EvaluationConfig, run: RunDir) -> dict[str, Any]:
    from mmcb.evaluation.pipeline import evaluate

    results: dict[str, Any] = {}
    timed("evaluation", lambda: results.update(evaluate(config)), partial(_note, run))
    return results


def output_folder(config: SuiteConfig, suite: Suite) -> Path:
    """Where everything goes: --out, or runs/suite/SUITE-MODEL."""
    return config.out or Path("runs") / COMMAND / f"{suite.name}-{Path(config.model).name}"


def finished(stage: Stage) -> bool:
    """Whether the stage's folder holds a whole run with these settings: no model need be loaded."""
    if not (stage.path / "manifest.json").is_file():
        return False
    manifest = read_manifest(stage.path)
    # What is None here, the command resolved itself.
    wanted = stage.config.model_dump(mode="json", exclude={"out"})
    known = {key: value for key, value in wanted.items() if value is not None}
    same = all(manifest["config"].get(key) == value for key, value in known.items())
    return bool(same and manifest["status"] == "complete")


def _note(run: RunDir, name: str, took: Seconds) -> None:
    """Add what a stage took to the manifest, to what it took before a resume."""
    seconds = dict(read_manifest(run.path).get("seconds", {}))
    before = seconds.get(name, {"wall": 0.0, "cpu": 0.0})
    seconds[name] = {
        "wall": round(before["wall"] + took.wall, 1),
        "cpu": round(before["cpu"] + took.cpu, 1),
    }
    run.note("seconds", seconds)


def _log_seconds(path: Path) -> None:
    seconds = read_manifest(path)["seconds"]
    for name, one in seconds.items():
        _log.info("%s: %.0f s, %.0f s of CPU time", name, one["wall"], one["cpu"])
    wall, cpu = (sum(one[key] for one in seconds.values()) / 60 for key in ("wall", "cpu"))
    _log.info("all: %.1f min one after the other, %.1f min of CPU time", wall, cpu)
