"""Options of `python -m mmcb.miniature`."""

from pathlib import Path

from pydantic import Field

from mmcb.config import Config


class MiniatureConfig(Config):
    """Draw the miniature world as a COCO folder, with what is needed to attack and to measure."""

    out: Path = Path("data/miniature")
    """Folder to write; an existing world with the same settings is left as it is."""

    seed: int = 0
    """Fixes tasks and behaviors. Scenes have fixed seeds of their own for each split."""

    num_train: int = Field(default=400, ge=1)
    """Scenes in train2017."""

    num_val: int = Field(default=60, ge=1)
    """Scenes in val2017."""

    num_test: int = Field(default=200, ge=1)
    """Scenes in test2017: the only ones that behaviors and tasks use."""

    num_behaviors: int = Field(default=120, ge=2)
    """Harmful requests with a picture, and as many without; half are of held-out categories."""

    num_tasks: int = Field(default=200, ge=1)
    """Items of each capability: captions, questions, facts, benign how-to, over-refusal."""

    num_instructions: int = Field(default=360, ge=1)
    """Text-only retain examples: facts, sums, how-to and borderline questions."""
