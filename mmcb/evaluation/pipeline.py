"""The whole evaluation: attempts -> generations -> verdicts -> results.json -> report.html.

Each stage reads the files of the one before it and adds only what is missing, so the same call
again resumes, and a call after a new training keeps what is still true.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmcb.evaluation.beside import read_beside
from mmcb.evaluation.budget import attack_budgets
from mmcb.evaluation.by_run import rates_by_run
from mmcb.evaluation.completions import write_harmbench
from mmcb.evaluation.config import EvaluationConfig
from mmcb.evaluation.contamination.check import check_contamination
from mmcb.evaluation.contamination.sets import sets_of
from mmcb.evaluation.facts import attack_curves, attack_facts, circumstances, training_facts
from mmcb.evaluation.generate import (
    GeneratorFactory,
    Plan,
    generate_missing,
    make_plan,
    sampling_of,
)
from mmcb.evaluation.inputs import Inputs, read_inputs
from mmcb.evaluation.judges import Judge, find_judge, load_judge
from mmcb.evaluation.judges.specification import parse_judge
from mmcb.evaluation.summarize import Judged, join, summarize
from mmcb.evaluation.verdicts import Item, attack_judges, judge_missing, task_judges, verdict_id
from mmcb.evaluation.weights import Roles, find_roles, require_judge, training_run_of
from mmcb.generation.factory import make_generator
from mmcb.generation.protocol import TextGenerator
from mmcb.log import get_logger
from mmcb.records import Generation, Verdict
from mmcb.run_folder import RunDir
from mmcb.store import read_records, record_id, replace_records, write_atomic

COMMAND = "evaluation"

_log = get_logger(__name__)


def evaluate(
    config: EvaluationConfig,
    *,
    make_generator: GeneratorFactory | None = None,
    make_judge: Callable[[str], Judge] | None = None,
    report: bool = True,
) -> dict[str, Any]:
    """Run what is missing of an evaluation; its results, as they stand in results.json.

    Args:
        config: What to evaluate.
        make_generator: Makes the generator of a role, instead of loading the model.
        make_judge: Makes a judge by its name, instead of the table and --judge-engine.
        report: Whether to write report.html too.

    Raises:
        MmcbError: A model, an adapter, a judge or an input file is not there.
    """
    _check_judges(config, with_models=make_judge is None)
    roles = find_roles(config.model, config.adapter, config.engine)
    out = output_folder(config)
    # Read first: a missing file should not leave a folder behind.
    inputs = read_inputs(config, roles=tuple(roles.weights), attempts_path=out / "attempts.jsonl")
    with RunDir.start(
        out, command=COMMAND, config=config, may_change=frozenset(EvaluationConfig.model_fields)
    ) as run:
        attempts_path = out / "attempts.jsonl"
        replace_records(attempts_path, inputs.attempts)
        plan = make_plan(
            inputs.attempts,
            attempts_path=attempts_path,
            fingerprints=roles.weights,
            sampling=sampling_of(config),
        )
        beside = read_beside(config.beside, weights=plan.fingerprints, judge=config.judges[0])
        factory = make_generator or roles.generator
        generate_missing(plan, generations_path=out / "generations.jsonl", make_generator=factory)
        judged = _judge(config, inputs, plan, out, make_judge or _judge_maker(config))
        results = summarize(judged, harm_judges=config.judges)
        if config.perplexity:
            results["perplexity"] = _perplexity(config, judged, plan, out)
        results["capability_runs"] = beside.capability
        results["checks"] = beside.checks
        results["runs"] = {**rates_by_run(judged, judge=config.judges[0]), **beside.attacks}
        curves = attack_curves(config.hijacks, inputs.attempts)
        results["budget"] = attack_budgets(judged, curves, judge=config.judges[0])
        results["settings"] = _settings(config, inputs, plan, roles)
        sets = sets_of(inputs, config.tasks)
        results["contamination"] = check_contamination(roles.adapter, sets)
        results["training"] = training_facts(training_run_of(roles.adapter))
        write_atomic(out / "results.json", json.dumps(results, indent=2) + "\n")
        if config.harmbench_layout:
            write_harmbench(
                out / "harmbench", judged, attempts_path=attempts_path, judge=config.judges[0]
            )
        if report:
            from mmcb.evaluation.report.build import write_report

            write_report(out, results=results, judged=judged, inputs=inputs, config=config)
        run.note("weights", dict(plan.fingerprints))
    return results


def output_folder(config: EvaluationConfig) -> Path:
    """Where the results go: --out, or runs/evaluation/<model>."""
    return config.out or Path("runs/evaluation") / Path(config.model).name


def _check_judges(config: EvaluationConfig, *, with_models: bool) -> None:
    """Say now, not after hours of answers, that there is no such judge, or no model for it."""
    for name in config.judges:
        asks = find_judge(name, "harm").prompted
        model = parse_judge(name).model or (None if asks is None else asks.model)
        if with_models and model is not None:
            require_judge(config.judge_engine, model)


def _judge_maker(config: EvaluationConfig) -> Callable[[str], Judge]:
    def load_model(model: str) -> TextGenerator:
        _log.info("loading the judge %s", model)
        return make_generator(config.judge_engine, model)

    return partial(load_judge, make_generator=load_model)


def _judge(
    config: EvaluationConfig,
    inputs: Inputs,
    plan: Plan,
    out: Path,
    make_judge: Callable[[str], Judge],
) -> list[Judged]:
    items = collect_items(inputs, plan.ids, generations_path=out / "generations.jsonl")
    path = out / "verdicts.jsonl"
    judge_missing(items, verdicts_path=path, harm_judges=config.judges, make_judge=make_judge)
    # A verdict by an older rule of the same judge is still in the file, under another id.
    current = current_verdict_ids(items, config.judges)
    verdicts = [v for v in read_records(path, Verdict) if v.id in current]
    return join(items, verdicts)


def _perplexity(
    config: EvaluationConfig, judged: Sequence[Judged], plan: Plan, out: Path
) -> dict[str, Any]:
    from mmcb.evaluation import perplexity

    losses = perplexity.measure_missing(
        [one.item for one in judged],
        path=out / perplexity.FILE,
        model=config.model,
        weights=plan.fingerprints["base"],
        batch_size=config.batch_size,
    )
    return perplexity.perplexity_table([(one.attack, one.item) for one in judged], losses)


def current_verdict_ids(items: Sequence[Item], harm_judges: Sequence[str]) -> set[str]:
    """The ids of the verdicts that count now."""
    names = {*attack_judges(harm_judges), *task_judges(harm_judges)}
    return {verdict_id(item.generation.id, name) for item in items for name in names}


def collect_items(inputs: Inputs, ids: Mapping[str, str], *, generations_path: Path) -> list[Item]:
    """Each attempt's answer with what stands behind it, in the order of the attempts."""
    answers = {g.id: g for g in read_records(generations_path, Generation)}
    return [
        Item(
            generation=answers[ids[attempt.id]],
            attempt=attempt,
            behavior=inputs.behaviors.get(attempt.behavior_id),
            task=inputs.tasks.get(attempt.behavior_id) if attempt.attack == "task" else None,
        )
        for attempt in inputs.attempts
        if ids[attempt.id] in answers
    ]


def _settings(config: EvaluationConfig, inputs: Inputs, plan: Plan, roles: Roles) -> dict[str, Any]:
    return {
        **roles.settings(),
        "decoding": plan.sampling.model_dump(mode="json"),
        "judges": list(config.judges),
        "attack": attack_facts(config.hijacks, inputs.attempts),
        "files": {
            name: None if path is None else str(path)
            for name in ("behaviors", "text_behaviors", "tasks", "triggers", "translations")
            for path in [getattr(config, name)]
        },
        "sets": _sets(inputs),
        "skipped": inputs.skipped,
        **circumstances(output_folder(config)),
    }


def _sets(inputs: Inputs) -> dict[str, Any]:
    """What was asked: how many behaviors and tasks, and a hash that tells one set from another."""
    sets = {"behaviors": inputs.behaviors.keys(), "tasks": inputs.tasks.keys()}
    return {
        name: {"n": len(ids), "hash": record_id(name, *sorted(ids))} for name, ids in sets.items()
    }
