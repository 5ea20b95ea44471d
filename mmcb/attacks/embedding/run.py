"""The embedding command: attack, sum up."""

from __future__ import annotations

from pathlib import Path

from mmcb.attacks.bench import ModelBench
from mmcb.attacks.embedding.attacker import EmbeddingAttacker
from mmcb.attacks.embedding.config import EmbeddingConfig
from mmcb.attacks.textbench import log_losses
from mmcb.attacks.textrun import open_run


def run_embedding(config: EmbeddingConfig) -> Path:
    """Run the command; returns the run's folder.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    with open_run(config, target_suffix=config.target_suffix) as run:
        bench = ModelBench(run.config, run.loaded, run.path)
        EmbeddingAttacker(bench, run.targets.labels).attack(run.subjects)
        log_losses(run.path / "attempts.jsonl")
    return run.path
