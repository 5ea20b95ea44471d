"""A finished evaluation's answers, read back from its folder for showing.

What is read here is shown, never counted: the numbers stand in results.json. So a behaviors file
that is no longer there leaves a gap, and never stops a page.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmcb.evaluation.comparison import Evaluation
from mmcb.evaluation.generate import make_plan
from mmcb.evaluation.summarize import join
from mmcb.evaluation.verdicts import Item
from mmcb.generation.protocol import Sampling
from mmcb.pages.curves import read_json
from mmcb.records import Attempt, Behavior, Generation, Verdict
from mmcb.store import read_records


def with_answers(evaluation: Evaluation) -> Evaluation:
    """The evaluation with its answers, each with the last word of every judge.

    Raises:
        MmcbError: a file of its folder holds a bad line.
    """
    folder, settings = evaluation.folder, evaluation.results["settings"]
    files = ("attempts.jsonl", "generations.jsonl", "verdicts.jsonl")
    if not all((folder / name).is_file() for name in files):
        return evaluation
    behaviors, behavior_files = behaviors_of(folder)
    attempts = list(read_records(folder / "attempts.jsonl", Attempt))
    # The folder may also hold answers of older weights: only the present ones are shown.
    plan = make_plan(
        attempts,
        attempts_path=folder / "attempts.jsonl",
        fingerprints=settings["weights"],
        sampling=Sampling(**settings["decoding"]),
    )
    answers = {g.id: g for g in read_records(folder / "generations.jsonl", Generation)}
    items = [
        Item(answers[plan.ids[attempt.id]], attempt, behaviors.get(attempt.behavior_id), None)
        for attempt in attempts
        if plan.ids[attempt.id] in answers
    ]
    judged = join(items, read_records(folder / "verdicts.jsonl", Verdict))
    return replace(evaluation, judged=judged, behaviors=behaviors, behavior_files=behavior_files)


def behaviors_of(folder: Path) -> tuple[dict[str, Behavior], dict[str, Path]]:
    """Behaviors that an evaluation was made of, as far as their files are still there.

    Returns:
        By id, and the file that each stands in.
    """
    settings = read_json(folder / "config.json")
    behaviors: dict[str, Behavior] = {}
    files: dict[str, Path] = {}
    for key in ("behaviors", "text_behaviors"):
        path = Path(str(settings.get(key)))
        if path.is_file():
            for behavior in read_records(path, Behavior):
                behaviors[behavior.id] = behavior
                files[behavior.id] = path
    return behaviors, files
