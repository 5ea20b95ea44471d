"""The embedding command: attack, sum up."""

from __future__ import annotations

from pathlib import Path

from mmcb.attacks.embedding.attacker import SETTINGS, EmbeddingAttacker
from mmcb.attacks.embedding.config import EmbeddingConfig
from mmcb.attacks.summary import log_summary
from mmcb.attacks.textrun import open_run


def run_embedding(config: EmbeddingConfig) -> Path:
    """Run the command; returns the run's folder.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    suffix = config.target_suffix
    with open_run(config, "embedding", settings=SETTINGS, target_suffix=suffix) as run:
        EmbeddingAttacker(run.bench, run.labels).attack(run.subjects)
        log_summary(run.bench.attempts)
    return run.bench.path
