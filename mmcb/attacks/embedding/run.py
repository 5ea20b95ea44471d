"""The embedding command: find the model and the requests, attack, sum up."""

from __future__ import annotations

from pathlib import Path

from mmcb.attacks.bench import ModelBench
from mmcb.attacks.embedding.attacker import EmbeddingAttacker
from mmcb.attacks.embedding.config import COMMAND, EmbeddingConfig
from mmcb.attacks.start import start_run
from mmcb.attacks.targets import locate_targets
from mmcb.attacks.textbench import check_takes_images, log_losses, read_subjects
from mmcb.models.loading import load_model

# A resumed run may be told these anew: they do not change what an attempt is.
MAY_CHANGE = frozenset({"batch_size", "save_every", "num_behaviors", "target_models", "device"})


def run_embedding(config: EmbeddingConfig) -> Path:
    """Run the command; returns the run's folder.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    targets, behaviors = locate_targets(config, command=COMMAND, needs_images=False)
    subjects = read_subjects(
        behaviors,
        limit=config.num_behaviors,
        images=config.images,
        target_suffix=config.target_suffix,
    )
    adapter = "none" if targets.adapter is None else str(targets.adapter)
    resolved = config.model_copy(
        update={"model": targets.model, "adapter": adapter, "behaviors": behaviors}
    )
    with start_run(
        resolved, targets, behaviors, command=COMMAND, may_change=MAY_CHANGE, out=config.out
    ) as run:
        loaded = load_model(
            targets.model, adapter=targets.adapter, device=config.device, dtype=config.dtype
        )
        check_takes_images(loaded, subjects)
        bench = ModelBench(resolved, loaded, run.path)
        EmbeddingAttacker(bench, targets.labels).attack(subjects)
        log_losses(run.path / "attempts.jsonl")
    return run.path
