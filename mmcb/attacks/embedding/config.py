"""Configuration of `python -m mmcb.attacks.embedding`. Imports no torch: `--help` is instant."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mmcb.attacks.config import TextAttackConfig
from mmcb.attacks.embedding.presets import Preset


class EmbeddingConfig(TextAttackConfig):
    """Optimise vectors behind each request so that the model begins its answer with the target."""

    command: ClassVar[str] = "attacks.embedding"

    preset: Preset | None = None
    """A published protocol: sets the flags below that it names; flags win."""

    start_text: str = Field(default=" x" * 20, min_length=1)
    """The text whose tokens' embeddings the vectors begin as; it says how many there are."""

    target_suffix: str = ""
    """Added to every behavior's target."""

    optimizer: Literal["sign", "sgd", "adam"] = "sign"
    """Steps along the gradient's sign, along the gradient, or Adam's."""

    step_size: float = Field(default=1e-3, gt=0.0)
    """Length of a sign step, in the embeddings' unit; the learning rate of the others."""

    steps: int = Field(default=500, ge=1)
    """Gradient steps per restart; each is one forward-backward pass."""

    restarts: int = Field(default=1, ge=1)
    """Number of starts; later ones add noise as long as the vectors are."""

    radius: float = Field(default=0.0, ge=0.0)
    """Largest L2 distance of a vector from where it began; 0: no bound."""

    stop_loss: float = Field(default=0.0, ge=0.0)
    """Stop a behavior once the mean cross-entropy of its target is this low; 0: spend all steps."""

    samples: int = Field(default=1, ge=1)
    """Keep up to so many iterates of each behavior, each an attempt of its own (best of k)."""

    sample_loss: float = Field(default=1e-3, ge=0.0)
    """With more than one sample: keep iterates whose loss is at most this; the best one always."""

    sample_distance: int = Field(default=5, ge=1)
    """Steps that kept iterates lie apart at least."""

    batch_size: int = Field(default=16, ge=1)
    """Behaviors attacked at once."""

    save_every: int = Field(default=25, ge=1)
    """Save the state of the running batch every so many steps; a killed run resumes from there."""

    seed: int = 0
    """Seed of the restarts."""
