"""Settings of `python -m mmcb.evaluation.lm_eval`. Imports no torch: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mmcb.config import Config
from mmcb.models.families import FAMILIES

PAPER_TASKS = (
    "mmlu@5",
    "arc_challenge@25",
    "hellaswag@10",
    "truthfulqa_mc2@0",
    "winogrande@5",
    "gsm8k@5",
)
"""The paper's six (Zou et al. 2024, Table 1), with the Open LLM Leaderboard's numbers of shots."""

PAPER_METRICS = {
    "mmlu": "acc,none",
    "arc_challenge": "acc_norm,none",
    "hellaswag": "acc_norm,none",
    "truthfulqa_mc2": "acc,none",
    "winogrande": "acc,none",
    "gsm8k": "exact_match,strict-match",
}
"""The metric of each that goes into the Open LLM Leaderboard's average."""

PAPER_VISION_TASKS = ("mmmu_val",)
"""What the paper adds for a model that sees."""


def split_task(text: str) -> tuple[str, int | None]:
    """The name and the number of shots of `mmlu@5`; None where the task's own number counts.

    Raises:
        ValueError: what follows the @ is no whole number.
    """
    name, at, shots = text.partition("@")
    if not name or (at and not shots.isdecimal()):
        raise ValueError(f"{text!r}: a task is NAME or NAME@SHOTS, such as mmlu@5")
    return name, int(shots) if at else None


def _checked(tasks: tuple[str, ...]) -> tuple[str, ...]:
    names = [split_task(text)[0] for text in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is named twice")
    if not tasks:
        raise ValueError("name at least one task")
    return tasks


class LmEvalConfig(Config):
    """Run lm-eval's tasks on the base model and with the adapter, with the same settings."""

    model: str = "tiny-mistral"
    """Model to evaluate: a family's name, a hub id or a folder with a checkpoint."""

    adapter: str = "newest"
    """Adapter of the defended model: a folder, "newest" (the newest finished training run of
    this model) or "none" (the base model alone)."""

    tasks: Annotated[tuple[str, ...], AfterValidator(_checked)] = PAPER_TASKS
    """lm-eval's tasks, groups or tags, each NAME[@SHOTS]; by default the paper's six, and MMMU for
    a model that sees."""

    include_path: Path | None = None
    """Folder of your own task files (lm-eval's YAML)."""

    mmlu_csv: Path | None = None
    """Read the task mmlu from its own CSV files, not from the hub: a folder with test/ and dev/."""

    limit: int | None = Field(default=None, ge=1)
    """Only the first so many items of each task: for a quick look, not for a result."""

    apply_chat_template: bool = False
    """Put text tasks as chats. The paper's numbers are without; tasks with pictures always are."""

    batch_size: int = Field(default=8, ge=1)
    """Requests run at once."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1..."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; auto is float32 on a CPU and for float32 checkpoints, else bfloat16."""

    seed: int = 1234
    """Seed of the choice of few-shot examples, and of all else that lm-eval draws."""

    out: Path | None = None
    """Folder of the results; runs/lm_eval/<model> by default. The same command again goes on with
    the tasks that are missing."""


def preset(model: str) -> LmEvalConfig:
    """The settings that suit a model: one that sees is also asked about pictures."""
    family = next((f for f in FAMILIES.values() if model in (f.name, f.hub_id)), None)
    if family is not None and family.kind == "vlm":
        return LmEvalConfig(model=model, tasks=(*PAPER_TASKS, *PAPER_VISION_TASKS))
    return LmEvalConfig(model=model)
