"""Configuration of `python -m mmcb.attacks.image_hijack`. Imports no torch: `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from mmcb.attacks.config import AttackConfig
from mmcb.attacks.image_hijack.presets import Preset
from mmcb.config import UnitFraction


class ImageHijackConfig(AttackConfig):
    """Optimise a picture per behavior so that the model begins its answer with the target."""

    command: ClassVar[str] = "attacks.image_hijack"
    needs_images: ClassVar[bool] = True

    preset: Preset | None = None
    """A published protocol, or one of ours: sets the flags below that it names; flags win."""

    image_folder: Path | None = None
    """Folder of photographs to use in place of the behaviors' own pictures, in order of name."""

    max_side: int = Field(default=1024, ge=16)
    """Pictures with a longer side than this are scaled down to it once, before the attack."""

    objective: Literal["target", "adaptive"] = "target"
    """target: cross-entropy of the target. adaptive: on the defended model also its distance from
    the frozen one at the layers that were rerouted (two passes a step)."""

    distance_weight: float = Field(default=1.0, ge=0.0)
    """Weight of the distance (mean of 1 - cos) in the adaptive objective."""

    distance_ramp: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of a restart over which that weight rises from 0; 0: full from the first step."""

    target: Literal["behavior", "completion", "string", "responses"] = "behavior"
    """What the answer is to begin with: the behavior's own target; that target continued by the
    base model; one string for all; or any line of a set of responses, with no request at all."""

    target_tokens: int = Field(default=64, ge=1)
    """How many tokens the base model may add to the target (--target completion)."""

    target_string: str = ""
    """The string (--target string)."""

    responses: Path | None = None
    """Text file, one response a line (--target responses; default: the behaviors' own targets)."""

    universal: bool = False
    """One picture for all behaviors, tested on behaviors that it was not made with."""

    validation_share: float = Field(default=0.2, ge=0.0, le=1.0)
    """Share of the behaviors that choose the universal picture's iterate."""

    test_share: float = Field(default=0.3, ge=0.0, le=1.0)
    """Share of the behaviors that the universal picture is tested on; only these get attempts."""

    validate_every: int = Field(default=25, ge=1)
    """Steps between looks at the validation behaviors, or (random losses) fixed draws."""

    patch: Literal["none", "stationary", "moving"] = "none"
    """Change a square patch alone: at one random place, or pasted anew at every step."""

    patch_size: float = Field(default=0.2, ge=0.0, le=1.0)
    """Side of the patch, as a share of the picture's shorter side."""

    frame: Literal["raw", "model_input"] = "raw"
    """Where epsilon is measured: on the picture as it is, or on the picture brought to the size at
    which the model sees it (as HarmBench does; the numbers are not comparable)."""

    epsilon: UnitFraction = 32 / 255
    """Largest change of a pixel, as a fraction of its range, in the chosen frame; 1: none."""

    transforms: tuple[Literal["jpeg", "resize", "noise"], ...] = ()
    """Random transforms that the picture is to survive (expectation over transforms)."""

    transform_samples: int = Field(default=1, ge=1)
    """Draws of the transforms a step; each is a forward-backward pass."""

    jpeg_quality: int = Field(default=75, ge=1, le=95)
    """Lowest JPEG quality drawn; the highest is 95."""

    jpeg_gradient: Literal["differentiable", "straight-through"] = "differentiable"
    """A smooth JPEG, or the real one with the identity as its gradient."""

    steps: int = Field(default=100, ge=1)
    """Gradient steps per restart; each is one forward-backward pass (the paper's budget: 1000)."""

    optimizer: Literal["sign", "sgd", "adam"] = "sign"
    """Steps along the gradient's sign, along the gradient, or Adam's."""

    step_size: UnitFraction = 1 / 255
    """Length of a sign step, as a fraction of the pixel range; the learning rate of the others."""

    schedule: Literal["constant", "linear", "cosine", "halving"] = "constant"
    """How the step size goes over a restart; the falling ones end at a tenth."""

    momentum: float = Field(default=0.0, ge=0.0)
    """Decay of the accumulated gradient (for sign steps MI-FGSM); 0: none."""

    gradient_clip: float = Field(default=0.0, ge=0.0)
    """Largest norm of a picture's gradient for sgd; 0: no limit."""

    restarts: int = Field(default=1, ge=1)
    """Number of starts; the second and later ones are random points of the ball."""

    random_start: bool = False
    """Begin the first start at a random point too, instead of the clean picture."""

    start: Literal["clean", "base"] = "clean"
    """Where the attack on the defended model begins: at the clean picture, or at the picture made
    for the base model."""

    stop_loss: float = Field(default=0.01, ge=0.0)
    """Stop a picture once the mean cross-entropy of its target is this low; 0: spend all steps."""

    batch_size: int = Field(default=16, ge=1)
    """Pictures of equal size attacked at once; for a universal picture, behaviors a step."""

    save_every: int = Field(default=25, ge=1)
    """Save the state of the running batch every so many steps; a killed run resumes from there."""

    seed: int = 0
    """Seed of starts, places, transforms and splits."""

    @property
    def may_change(self) -> frozenset[str]:
        """Settings that a resumed run may be told anew."""
        # One picture depends on how many behaviors a step has, and on which there are.
        fixed = {"batch_size", "num_behaviors"} if self.universal else set()
        return super().may_change - fixed
