"""The GCG command: search, sum up."""

from __future__ import annotations

from pathlib import Path

from mmcb.attacks.gcg.attacker import SETTINGS, GCGAttacker
from mmcb.attacks.gcg.config import GCGConfig
from mmcb.attacks.summary import log_summary
from mmcb.attacks.textrun import open_run


def run_gcg(config: GCGConfig) -> Path:
    """Run the command; returns the run's folder.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    with open_run(config, "gcg", settings=SETTINGS) as run:
        GCGAttacker(run.bench, run.labels).attack(run.subjects)
        log_summary(run.bench.attempts)
    return run.bench.path
