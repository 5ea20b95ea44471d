"""Options of `python -m mmcb.miniature.pretrain`."""

from pathlib import Path

from mmcb.config import Config


class PretrainConfig(Config):
    """Train tiny-mistral and tiny-llava-next from nothing; resumes where it stopped."""

    out: Path = Path("runs/miniature-pretrain")
    """Folder for checkpoints, the picture pool and the finished models."""

    seed: int = 0
    """Fixes tokenizer, initial weights, scenes and batches."""

    text_steps: int = 1200
    """Optimiser steps of tiny-mistral (text alone)."""

    tower_steps: int = 1400
    """Optimiser steps of the vision tower (naming the thing in each slot)."""

    joint_steps: int = 2000
    """Optimiser steps of the whole VLM, its decoder starting from tiny-mistral."""

    caption_steps: int = 800
    """Further steps of the whole VLM at half the rate, in which captions come thrice as often."""

    num_pictures: int = 12000
    """Scenes drawn beforehand; signs and noise are put on them anew in every batch."""

    install: bool = False
    """Copy the finished models into the package, with their cards."""
