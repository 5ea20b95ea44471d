"""THE table of benchmark formats: name -> reader. To add one: a row here, a name in config.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmcb.evaluation.benchmarks.capability import read_bfcl, read_llava_bench
from mmcb.evaluation.benchmarks.config import BenchmarkName
from mmcb.evaluation.benchmarks.harmbench import read_multimodal, read_text
from mmcb.evaluation.benchmarks.mmlu import read_mmlu
from mmcb.evaluation.benchmarks.pictures import read_figstep, read_mm_safetybench
from mmcb.evaluation.benchmarks.reading import Reader
from mmcb.evaluation.benchmarks.text import harmful_table, harmless_table, read_xstest

_GOAL, _CATEGORY = ("Goal", "goal"), ("Category", "category")


@dataclass(frozen=True, slots=True)
class Format:
    """One row: what reads it, and how many records the whole benchmark has (None: it varies)."""

    read: Reader
    full_size: int | None = None


FORMATS: Mapping[BenchmarkName, Format] = {
    "harmbench": Format(read_text, 400),
    "harmbench-multimodal": Format(read_multimodal, 110),
    "mm-safetybench": Format(read_mm_safetybench),
    "figstep": Format(read_figstep, 500),
    # JBB-Behaviors' harmful half, and the benign one about the same topics (arXiv 2404.01318).
    "jailbreakbench": Format(
        harmful_table(
            "jailbreakbench", prompt=_GOAL, target=("Target", "target"), category=_CATEGORY
        ),
        100,
    ),
    "jailbreakbench-benign": Format(harmless_table("jailbreakbench-benign", prompt=_GOAL), 100),
    # `harmful_behaviors.csv` (Zou et al. 2023, arXiv 2307.15043).
    "advbench": Format(harmful_table("advbench", prompt=("goal",), target=("target",)), 520),
    # `strongreject_dataset.csv` (arXiv 2402.10260).
    "strongreject": Format(
        harmful_table("strongreject", prompt=("forbidden_prompt",), category=("category",)), 313
    ),
    "xstest": Format(read_xstest, 450),
    # `or-bench-80k` or `or-bench-hard-1k`, and what a model should refuse (arXiv 2405.20947).
    "or-bench": Format(harmless_table("or-bench", prompt=("prompt",), category=("category",))),
    "or-bench-toxic": Format(
        harmful_table("or-bench-toxic", prompt=("prompt",), category=("category",))
    ),
    "mmlu": Format(read_mmlu),
    "bfcl": Format(read_bfcl),
    "llava-bench": Format(read_llava_bench),
}
"""Sizes are those that the benchmarks' authors state (StrongREJECT: of the current package)."""
