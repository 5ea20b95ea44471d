"""Questions -> answers -> grades -> results.json. The same call again does what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmcb.evaluation.contamination.check import EvaluationSet, Item, check_contamination
from mmcb.evaluation.facts import circumstances
from mmcb.evaluation.generate import GeneratorFactory, sampling_of
from mmcb.evaluation.quality.answers import answer_all
from mmcb.evaluation.quality.config import QualityConfig
from mmcb.evaluation.quality.grading import Grader
from mmcb.evaluation.quality.questions import read_questions, set_name
from mmcb.evaluation.quality.summary import summarize
from mmcb.evaluation.weights import Roles, find_roles, require_judge
from mmcb.generation.factory import make_generator
from mmcb.generation.protocol import TextGenerator
from mmcb.log import get_logger
from mmcb.run_folder import RunDir
from mmcb.store import file_hash, write_atomic

COMMAND = "evaluation.quality"

_log = get_logger(__name__)


def measure_quality(
    config: QualityConfig,
    *,
    make_answerer: GeneratorFactory | None = None,
    make_judge: Callable[[], TextGenerator] | None = None,
) -> dict[str, Any]:
    """Run what is missing; the results, as they stand in results.json.

    Args:
        config: what to ask, of whom, and who grades.
        make_answerer: makes the generator of a role, instead of loading the model.
        make_judge: makes the judge, instead of loading it.

    Raises:
        MmcbError: a model, an adapter or a file is not there, or holds something else.
    """
    questions = read_questions(config)
    grader = Grader(
        config.benchmark,
        judge=config.judge,
        template=config.template,
        max_new_tokens=config.judge_max_new_tokens,
    )
    if make_judge is None:
        require_judge(config.judge_engine, config.judge)
    roles = find_roles(config.model, config.adapter, config.engine)
    out = output_folder(config)
    with RunDir.start(
        out, command=COMMAND, config=config, may_change=frozenset(QualityConfig.model_fields)
    ):
        answers = answer_all(
            questions,
            weights=roles.weights,
            sampling=sampling_of(config),
            out=out,
            make_generator=make_answerer or roles.generator,
        )
        grades = grader.grade_missing(
            answers, path=out / "grades.jsonl", make_judge=make_judge or _judge(config)
        )
        items = [Item(q.id, q.turns[0], q.image) for q in questions]
        asked = EvaluationSet(items, config.questions)
        results = {
            "benchmark": config.benchmark,
            "set": set_name(config.benchmark, questions),
            **summarize(answers, grades, seed=config.seed),
            "contamination": check_contamination(roles.adapter, {config.benchmark: asked}),
            "settings": _settings(config, roles, grader),
        }
        write_atomic(out / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def output_folder(config: QualityConfig) -> Path:
    """Where the results go: --out, or runs/quality/<benchmark>-<model>."""
    return config.out or Path("runs/quality") / f"{config.benchmark}-{Path(config.model).name}"


def _judge(config: QualityConfig) -> Callable[[], TextGenerator]:
    def make() -> TextGenerator:
        _log.info("loading the judge %s", config.judge)
        return make_generator(config.judge_engine, config.judge)

    return make


def _settings(config: QualityConfig, roles: Roles, grader: Grader) -> dict[str, Any]:
    files = (config.questions, config.references, config.context)
    return {
        **roles.settings(),
        "decoding": sampling_of(config).model_dump(mode="json"),
        "judge": config.judge,
        "judge_engine": config.judge_engine.name,
        "judge_template": None if config.template is None else str(config.template),
        "judge_template_hash": grader.template_hash,
        "judge_max_new_tokens": config.judge_max_new_tokens,
        "limit": config.limit,
        "files": {str(path): file_hash(path) for path in files if path is not None},
        **circumstances(output_folder(config)),
    }
