"""The GCG command: search, sum up."""

from __future__ import annotations

from pathlib import Path

from mmcb.attacks.bench import ModelBench
from mmcb.attacks.gcg.attacker import GCGAttacker
from mmcb.attacks.gcg.config import GCGConfig
from mmcb.attacks.textbench import log_losses
from mmcb.attacks.textrun import open_run


def run_gcg(config: GCGConfig) -> Path:
    """Run the command; returns the run's folder.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    with open_run(config) as run:
        bench = ModelBench(run.config, run.loaded, run.path)
        GCGAttacker(bench, run.targets.labels).attack(run.subjects)
        log_losses(run.path / "attempts.jsonl")
    return run.path
