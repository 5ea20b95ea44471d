"""Configuration of `python -m mmcb.training`. Imports no torch: `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ByteSize, Field, TypeAdapter, ValidationInfo, field_validator

from mmcb.config import Config
from mmcb.models.recipe_defaults import Mask, RerouteTarget
from mmcb.sources.source import KINDS, SourceFlag, read_sources

Tracker = Literal["tensorboard", "wandb", "trackio"]


class TrainingConfig(Config):
    """Train circuit breakers into a model by representation rerouting.

    Every recipe flag without a value takes the model family's default; the values a run used stand
    in its recipe.json.
    """

    model: str = "llava-next"
    """Model family, hub id or folder of a checkpoint."""

    data: Path | None = None
    """Folder of circuit_breaker.jsonl and retain.jsonl (default: the newest in data/synthesis)."""

    circuit_breaker_data: tuple[SourceFlag, ...] = ()
    """Sources of the circuit-breaker set instead of --data's: mmcb, upstream, chat, llava or
    alpaca, a colon, a file or hub id (OWNER/NAME:REVISION#SPLIT), and @ how many to draw of it."""

    retain_data: tuple[SourceFlag, ...] = ()
    """Sources of the retain set instead of --data's, in the same form, and also of format xstest;
    of upstream's file these take the refusals."""

    image_folder: Path | None = None
    """Folder that image paths in llava sources begin in (default: the file's own)."""

    heldout_fraction: float = Field(default=0.02, ge=0, lt=1)
    """Share of the sources' records to validate on; mmcb's own records say it themselves."""

    no_request_fraction: float | None = Field(default=None, ge=0, le=1)
    """Share of training examples whose request is emptied, so that the answer counts alone."""

    out: Path | None = None
    """Folder of the run (default: runs/training/MODEL-TIME). A run of the same settings that did
    not come to its end is resumed."""

    seed: int = 0
    """Seed of all that is random: adapter, order of examples, dropout, escape directions."""

    merge: bool = False
    """Also write the merged checkpoint (OUT/merged): the whole model with the adapter folded in."""

    push_to_hub: str | None = None
    """Upload the adapter to this repository of the Hugging Face hub (OWNER/NAME) when all is done;
    a new one is private."""

    push_merged: bool = False
    """Upload the merged checkpoint instead of the adapter."""

    push_public: bool = False
    """Let the repository be public."""

    push_public_merged: bool = False
    """Confirm that a whole merged model is to be public."""

    report_to: tuple[Tracker, ...] = ()
    """Also mirror the metrics to these: tensorboard (OUT/mmcb), wandb, trackio."""

    evaluate: bool | None = None
    """Attack and judge the model before and after (default: as the family's recipe says)."""

    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps T."""

    learning_rate: float | None = Field(default=None, gt=0)
    """Learning rate, constant (AdamW)."""

    batch_size: int | None = Field(default=None, ge=1)
    """Circuit-breaker examples in a batch, however many processes share it."""

    retain_batch_size: int | None = Field(default=None, ge=1)
    """Retain examples in a batch, however many processes share it."""

    accumulation: int = Field(default=1, ge=1)
    """Batches of both kinds in one optimiser step."""

    reroute_weight: float | None = Field(default=None, ge=0)
    """Reroute weight at step 0; it falls linearly to 0 at the horizon."""

    retain_weight: float | None = Field(default=None, ge=0)
    """Retain weight at the horizon; it rises linearly from 0 at step 0."""

    horizon: int | None = Field(default=None, ge=1)
    """Optimiser steps after which the reroute weight would be 0 (default: 2T, the paper's, so that
    training ends half way)."""

    retain_warmup_steps: int | None = Field(default=None, ge=0)
    """First steps, in which the retain loss has no weight; 0 for the paper's recipe. Beside an
    escape loss it does harm: what moved without restraint is pulled back whole."""

    reroute_target: RerouteTarget | None = None
    """Where circuit-breaker tokens go: at a right angle to their frozen state (rr, the paper's), to
    the state before a refusal or before the end of an answer (refusal, eos: means over the retain
    set), or to a random positive direction (randp, the paper's control)."""

    embedding_noise: float | None = Field(default=None, ge=0)
    """Move each embedding of circuit-breaker examples at random, by up to this share of its length:
    the adapter then learns less of their words and more of what they have in common."""

    escape_weight: float | None = Field(default=None, ge=0)
    """Weight of the escape loss at step 0 (default: the reroute weight): the angle to a slightly
    tilted frozen state, whose gradient does not vanish on the saddle that the reroute loss starts
    on."""

    escape_steps: int | None = Field(default=None, ge=0)
    """Steps over which the escape weight falls to 0; 0 for the paper's recipe, without escape, and
    by default for every --reroute-target but rr: only that starts on a saddle."""

    start_steps: int = Field(default=0, ge=0)
    """Leave the saddle in so many steps (10, say), whatever --learning-rate: these steps go at a
    rate that is measured on the first step's examples, until the cosine is below a half."""

    stop_early: bool = False
    """End training when the cosine has collapsed and the retain loss has settled."""

    target_layers: tuple[int, ...] | None = None
    """Layers to reroute, as indices into hidden_states: k is the output of decoder block k-1."""

    lora_layers: tuple[int, int] | None = None
    """First and last decoder block that gets an adapter, both included; blocks after the last
    target, which nothing would see, get none."""

    lora_rank: int | None = Field(default=None, ge=1)
    """Rank of the adapter."""

    lora_alpha: int | None = Field(default=None, ge=1)
    """Scale of the adapter: its output is multiplied by alpha / rank."""

    lora_dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout before the adapter."""

    mask: Mask | None = None
    """Tokens that the reroute loss counts: all but the first (BOS), all after the image, or the
    completion only."""

    retain_mask: Mask | None = None
    """Tokens that the retain loss counts (default: the same as --mask)."""

    alternate: bool | None = None
    """Alternate batches with images and without, step by step, where the data has both."""

    max_length: int | None = Field(default=None, ge=8)
    """Cut an example after this many text tokens; image tokens are not counted."""

    validate_every: int = Field(default=25, ge=0)
    """Measure the cosine on held-out records every so many steps; 0 for never."""

    validation_examples: int = Field(default=64, ge=1)
    """Held-out records of each kind to measure it on."""

    checkpoint_every: int = Field(default=25, ge=1)
    """Write a checkpoint every so many steps; a killed run resumes from the last one."""

    memory: str | None = None
    """Memory of each device that training may use, e.g. 16GiB: a step is cut into passes that fit,
    whatever the images' sizes, and blocks run again in the backward pass where they must (default:
    all of a GPU's, no limit on a CPU)."""

    paper_compat: bool = False
    """Reproduce the arithmetic of the authors' code: their padded layout, retain mean, cosine and
    schedule, and no escape loss. Of the recipe it fixes what that code fixes (horizon 300, ...)."""

    recipe: bool = False
    """Print the recipe that would be trained, with every default filled in, as JSON, and end."""

    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps, ..."""

    dtype: str = "auto"
    """Precision of the frozen weights: auto, float32, bfloat16, float16."""

    @property
    def memory_bytes(self) -> int | None:
        """The memory as a number."""
        return (
            None if self.memory is None else int(TypeAdapter(ByteSize).validate_python(self.memory))
        )

    @field_validator("memory")
    @classmethod
    def _check_memory(cls, value: str | None) -> str | None:
        if value is not None:
            TypeAdapter(ByteSize).validate_python(value)
        return value

    @field_validator("circuit_breaker_data", "retain_data", mode="before")
    @classmethod
    def _read_sources(cls, value: Any, info: ValidationInfo) -> Any:
        kind = next(kind for kind in KINDS if info.field_name == f"{kind}_data")
        return read_sources(value, kind=kind)
