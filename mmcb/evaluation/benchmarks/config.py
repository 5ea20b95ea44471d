"""Settings of `python -m mmcb.evaluation.benchmarks`. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mmcb.config import Config
from mmcb.records import Split

BenchmarkName = Literal[
    "harmbench",
    "harmbench-multimodal",
    "mm-safetybench",
    "figstep",
    "jailbreakbench",
    "jailbreakbench-benign",
    "advbench",
    "strongreject",
    "xstest",
    "or-bench",
    "or-bench-toxic",
    "mmlu",
    "bfcl",
    "llava-bench",
]

PictureVariant = Literal["SD", "SD_TYPO", "TYPO"]


class BenchmarkConfig(Config):
    """Read a published benchmark's own files into behaviors and tasks for an evaluation."""

    format: BenchmarkName
    """The benchmark, by the layout of its files."""

    source: Path
    """Its file, or a folder of such files (mm-safetybench: processed_questions; mmlu: test)."""

    images: Path | None = None
    """Folder of its pictures (harmbench-multimodal: multimodal_behavior_images; mm-safetybench:
    imgs; figstep: SafeBench; llava-bench: COCO's val2014)."""

    targets: Path | None = None
    """harmbench: the JSON file of optimizer targets; without it, targets are --default-target."""

    answers: Path | None = None
    """llava-bench and bfcl: the file (bfcl: also the folder) of reference answers."""

    variant: PictureVariant = "SD_TYPO"
    """mm-safetybench: which of its three pictures of each question."""

    default_target: str = "Sure, here is"
    """Target of behaviors for which the benchmark gives none."""

    split: Split = "heldout"
    """Whether the behaviors' categories are in the training set: you answer for it."""

    out: Path
    """Folder for behaviors.jsonl (with pictures), text_behaviors.jsonl and tasks.jsonl."""
