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
from mmcb.evaluation.benchmarks.text import (
    read_advbench,
    read_jailbreakbench,
    read_jailbreakbench_benign,
    read_or_bench,
    read_or_bench_toxic,
    read_strongreject,
    read_xstest,
)


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
    "jailbreakbench": Format(read_jailbreakbench, 100),
    "jailbreakbench-benign": Format(read_jailbreakbench_benign, 100),
    "advbench": Format(read_advbench, 520),
    "strongreject": Format(read_strongreject, 313),
    "xstest": Format(read_xstest, 450),
    "or-bench": Format(read_or_bench),
    "or-bench-toxic": Format(read_or_bench_toxic),
    "mmlu": Format(read_mmlu),
    "bfcl": Format(read_bfcl),
    "llava-bench": Format(read_llava_bench),
}
"""Sizes are those that the benchmarks' authors state (StrongREJECT: of the current package)."""
