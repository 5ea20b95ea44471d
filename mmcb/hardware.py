"""What a run was computed on, in words for its manifest. Imports no torch, but asks it."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from pathlib import Path


def describe_hardware() -> str:
    """The processor and, where this process has used any, the GPUs: `2 x NVIDIA H100; 16 cores`.

    What other processes of a run used is not known here.
    """
    torch = sys.modules.get("torch")
    gpus: Counter[str] = Counter()
    if torch is not None and torch.cuda.is_initialized():
        gpus.update(map(torch.cuda.get_device_name, range(torch.cuda.device_count())))
    used = [f"{count} x {name}" for name, count in gpus.items()]
    return "; ".join([*used, f"{os.cpu_count()} cores of {_processor()}"])


def _processor() -> str:
    """The processor's own name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
