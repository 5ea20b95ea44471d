"""The short evaluation at the end of a training run: attacks from words, and what is kept.

For models so small that it takes seconds; `python -m mmcb.evaluation` is the whole thing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmcb.evaluation.config import EvaluationConfig
from mmcb.evaluation.generate import GeneratorFactory
from mmcb.evaluation.judges import Judge, load_judge
from mmcb.evaluation.pipeline import evaluate
from mmcb.log import get_logger
from mmcb.run_folder import read_manifest
from mmcb.store import write_atomic

FOLDER = "evaluation"

_log = get_logger(__name__)


def evaluate_training_run(
    run_path: Path,
    *,
    behaviors: Path | None = None,
    text_behaviors: Path | None = None,
    tasks: Path | None = None,
    triggers: Path | None = None,
    judges: tuple[str, ...] = ("miniature", "phrase"),
    max_new_tokens: int = 96,
    batch_size: int = 32,
    limit: int | None = None,
    data: Path = Path("data/miniature"),
    make_generator: GeneratorFactory | None = None,
    make_judge: Callable[[str], Judge] = load_judge,
) -> dict[str, Any]:
    """Measure direct, trigger and prefill ASR and capability before and after a training run.

    Resumes like every evaluation. Writes `evaluation/` (records and report) in the run's folder,
    and its results.json beside the adapter.

    Args:
        run_path: Folder of the training run, with `adapter/` and manifest.json.
        behaviors: Behaviors with an image; by default none, so that it stays quick.
        text_behaviors: Behaviors without one; by default those of `data`.
        tasks: Capability items; by default `evaluation/tasks.jsonl` of `data`. A text-only model
            is asked the ones without an image.
        triggers: Trigger templates; by default `attacks/triggers.txt` of `data`.
        judges: Judges of harm, the headline's first.
        max_new_tokens: Longest answer.
        batch_size: Requests answered at once.
        limit: Only the first so many behaviors, and items of each task.
        data: Folder of the miniature world.
        make_generator: Makes the generator of a role, instead of loading the model.
        make_judge: Makes a judge by its name.

    Returns:
        The results, as in results.json.

    Raises:
        MmcbError: The folder is no training run, or a file is missing.
    """
    model = str(read_manifest(run_path)["config"]["model"])
    config = EvaluationConfig(
        model=model,
        adapter=str(run_path / "adapter"),
        behaviors=behaviors,
        text_behaviors=text_behaviors or data / "evaluation/text_behaviors.jsonl",
        tasks=tasks or data / "evaluation/tasks.jsonl",
        triggers=triggers or data / "attacks/triggers.txt",
        judges=judges,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        limit=limit,
        title=f"{model}: before and after {run_path.name}",
        show_harmful="miniature" in judges,
        out=run_path / FOLDER,
    )
    results = evaluate(config, make_generator=make_generator, make_judge=make_judge)
    write_atomic(run_path / "results.json", json.dumps(results, indent=2) + "\n")
    _log.info("results in %s, report in %s", run_path / "results.json", run_path / FOLDER)
    return results
