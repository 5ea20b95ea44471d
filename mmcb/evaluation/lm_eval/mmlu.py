"""MMLU from its CSV files: lm-eval's own task in all but where the questions come from.

Prompt, five examples from dev, and the comparison of the log-likelihoods of " A" to " D" are
lm-eval's, as Hendrycks et al. (2021) measure it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.evaluation.benchmarks.mmlu import read_questions
from mmcb.evaluation.benchmarks.reading import files
from mmcb.log import get_logger

_log = get_logger(__name__)

Rows = list[dict[str, Any]]


def mmlu_group(folder: Path, manager: Any, *, shots: int | None) -> Any:
    """lm-eval's group `mmlu` over the subjects that the folder has.

    Args:
        folder: holds `test/SUBJECT_test.csv` and, for the examples, `dev/SUBJECT_dev.csv`.
        manager: lm-eval's task manager.
        shots: examples before each question; none need no dev/.

    Raises:
        MmcbError: no such folder or file, a file of no subject, or a bad row by file and line.
    """
    from lm_eval.config.group import AggMetricConfig

    members: list[dict[str, Any]] = []
    questions = examples = 0
    for path in files(folder / "test", "*.csv"):
        subject = path.stem.removesuffix("_test")
        if f"mmlu_{subject}" not in manager.all_tasks:
            raise MmcbError(f"{path}: MMLU has no subject {subject}")
        dev = folder / "dev" / f"{subject}_dev.csv"
        splits = {"test": _rows(path), "dev": [] if shots == 0 else _rows(dev)}
        if shots is not None and len(splits["dev"]) < shots:
            raise MmcbError(f"{dev}: holds {len(splits['dev'])} examples, {shots} are to be shown")
        members.append({"task": f"mmlu_{subject}", "custom_dataset": _data(splits)})
        questions += len(splits["test"])
        examples += len(splits["dev"])
    _log.info(
        "%s: %d subjects, %d questions, %d examples", folder, len(members), questions, examples
    )
    group = manager.load([{"group": "mmlu", "task": members}])["groups"]["mmlu"]
    # Named later: lm-eval would hand what else stands in the spec down to the subjects.
    group.aggregate_metric_list = [AggMetricConfig(metric="acc", weight_by_size=True)]
    return group


def _rows(path: Path) -> Rows:
    rows = [
        {"question": q.text, "choices": list(q.choices), "answer": q.answer}
        for q in read_questions(path)
    ]
    if not rows:
        raise MmcbError(f"{path}: holds no question")
    return rows


def _data(splits: dict[str, Rows]) -> Callable[..., Any]:
    def dataset(**_: Any) -> Any:
        from datasets import Dataset, DatasetDict

        return DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items() if rows})

    return dataset
