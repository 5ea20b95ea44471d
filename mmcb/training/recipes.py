"""The recipe of a run: the family's defaults, with what the command line changed. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmcb.config import Config
from mmcb.errors import MmcbError
from mmcb.models.families import Family, known_family
from mmcb.models.generic import row_or_generic
from mmcb.models.locate import read_json
from mmcb.models.recipe_defaults import Mask, RecipeDefaults, RerouteTarget, clip_lora_layers
from mmcb.training.config import TrainingConfig
from mmcb.training.schedule import Schedule

SAME_NAME = (
    "steps",
    "learning_rate",
    "batch_size",
    "retain_batch_size",
    "reroute_weight",
    "retain_weight",
    "retain_warmup_steps",
    "target_layers",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "mask",
    "alternate",
    "max_length",
    "embedding_noise",
    "no_request_fraction",
)
"""Fields that are called the same in the configuration, the family's defaults and the recipe."""

ESCAPE_STEPS = 40
"""Steps of the escape term, for every family: ours, not the paper's (seeds: docs/lab-log.md).
About as long as the authors' own run needs to leave the saddle by luck (its steps 13 to 40)."""

AUTHORS: dict[str, Any] = {
    "paper_compat": True,
    "horizon": 300,  # fixed in the code
    "retain_warmup_steps": 0,
    "escape_weight": 0.0,
    "escape_steps": 0,
    "start_steps": 0,
    "stop_early": False,
    "embedding_noise": 0.0,
    "mask": "all",  # and BOS, which is a matter of the layout
    "retain_mask": "all",
    "max_length": 1_000_000,  # the layout cuts request and answer, each at 512 tokens
}
"""What `--paper-compat` fixes, whatever family and flags say."""

ESCAPE_SHARE = 1.0
"""Escape weight at step 0 over the reroute weight at step 0, for every family."""


class Recipe(Config):
    """Everything that decides where training ends up, with no default left open: recipe.json."""

    steps: int
    """Optimiser steps T."""
    learning_rate: float
    """Constant, AdamW without weight decay."""
    batch_size: int
    """Circuit-breaker examples in a batch, however many processes share it."""
    retain_batch_size: int
    """Retain examples in a batch, however many processes share it."""
    accumulation: int
    """Batches of both kinds in one optimiser step."""
    reroute_target: RerouteTarget = "rr"
    """Where circuit-breaker tokens are rerouted to: mmcb/training/targets.py."""
    reroute_weight: float
    """Reroute weight at step 0."""
    retain_weight: float
    """Retain weight at the horizon."""
    horizon: int
    """Optimiser steps after which the reroute weight would be 0 (2T in the paper)."""
    retain_warmup_steps: int
    """First steps, in which the retain loss has no weight."""
    escape_weight: float
    """Weight of the escape loss at step 0."""
    escape_steps: int
    """Steps over which the escape weight falls to 0."""
    start_steps: int = 0
    """First steps, at a measured learning rate until the cosine has fallen: start.py."""
    stop_early: bool = False
    """Whether training ends when there is nothing left to gain: stopping.py."""
    target_layers: tuple[int, ...]
    """Indices into hidden_states: k is the output of decoder block k-1."""
    lora_layers: tuple[int, int]
    """First and last block with an adapter; none after the last target, which nothing could see."""
    lora_rank: int
    """LoRA r."""
    lora_alpha: int
    """LoRA alpha."""
    lora_dropout: float
    """Dropout before the adapter."""
    mask: Mask
    """Tokens that the reroute loss counts."""
    retain_mask: Mask
    """Tokens that the retain loss counts."""
    alternate: bool
    """Batches with images and without take turns."""
    max_length: int
    """Text tokens kept of an example."""
    embedding_noise: float = 0.0
    """Most that a circuit-breaker token's embedding is moved by: embedding_noise.py."""
    no_request_fraction: float = 0.0
    """Share of training examples whose request is emptied."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    paper_compat: bool = False
    """The authors' arithmetic: mmcb/training/paper_compat.py."""

    @property
    def num_blocks(self) -> int:
        """Decoder blocks that training needs: those up to the last target or adapter."""
        return max(*self.target_layers, self.lora_layers[1] + 1)

    @property
    def retain_layers(self) -> tuple[int, ...]:
        """Layers that the retain loss counts: every hidden state that the adapter can change."""
        return tuple(range(self.lora_layers[0] + 1, self.num_blocks + 1))

    def trajectory(self) -> dict[str, Any]:
        """What decides where training goes, whatever the split of a step into batches."""
        settings = self.model_dump(mode="json")
        if not self.paper_compat:  # there, every batch is a mean of its own
            batches = settings.pop("accumulation")
            for name in ("batch_size", "retain_batch_size"):
                settings[name] *= batches
        return settings

    @property
    def schedule(self) -> Schedule:
        """The weights by optimiser step."""
        return Schedule(
            reroute_weight=self.reroute_weight,
            retain_weight=self.retain_weight,
            horizon=self.horizon,
            retain_warmup_steps=self.retain_warmup_steps,
            escape_weight=self.escape_weight,
            escape_steps=self.escape_steps,
        )


def resolve_recipe(config: TrainingConfig, family: Family) -> Recipe:
    """Fill what the configuration leaves open from the family's defaults.

    Raises:
        MmcbError: the layers do not fit together or the model.
    """
    defaults = family.defaults
    values: dict[str, Any] = {
        name: _first(getattr(config, name), getattr(defaults, name)) for name in SAME_NAME
    }
    # A family states T and 2T together: with another T the horizon keeps its proportion.
    horizon = max(1, round(values["steps"] * defaults.horizon / defaults.steps))
    # What a family prefers is not what the authors' code has; a flag beside theirs is refused.
    reroute_target = _first(
        config.reroute_target, "rr" if config.paper_compat else defaults.reroute_target
    )
    # A fixed target pulls from the first step on: no saddle, nothing to escape from.
    escape_steps = ESCAPE_STEPS if reroute_target == "rr" else 0
    lora_layers = _first(config.lora_layers, defaults.lora_layers)
    recipe = Recipe(
        **values,
        horizon=_first(config.horizon, horizon),
        reroute_target=reroute_target,
        escape_steps=_first(config.escape_steps, escape_steps),
        escape_weight=_first(config.escape_weight, ESCAPE_SHARE * values["reroute_weight"]),
        start_steps=config.start_steps,
        stop_early=config.stop_early,
        accumulation=config.accumulation,
        lora_layers=clip_lora_layers(lora_layers, target_layers=values["target_layers"] or (0,)),
        retain_mask=_first(config.retain_mask, defaults.retain_mask, values["mask"]),
    )
    _check_layers(recipe, lora_layers, family)
    return _as_authors(recipe, family) if config.paper_compat else recipe


def _as_authors(recipe: Recipe, family: Family) -> Recipe:
    """The recipe with all that the authors' code fixes."""
    last = max(recipe.target_layers)
    if recipe.reroute_target != "rr":
        raise MmcbError(
            f"--paper-compat: the authors' code has no --reroute-target {recipe.reroute_target}",
            hint="leave one of the two out",
        )
    if last >= family.num_blocks:
        raise MmcbError(
            f"--paper-compat: target layer {last} is the last hidden state of {family.name}",
            hint="the authors' code puts the final norm on another block's output: lower it",
        )
    if recipe.steps * recipe.accumulation >= AUTHORS["horizon"]:
        raise MmcbError(
            f"--paper-compat: {recipe.steps * recipe.accumulation} batches, and the authors' code"
            f" fails at the {AUTHORS['horizon']}th, where its reroute weight is 0",
            hint="lower --steps or --accumulation",
        )
    # A block more than the targets see: it has an adapter too, and stands before the final norm.
    return recipe.model_copy(update={**AUTHORS, "lora_layers": (recipe.lora_layers[0], last)})


def preset(model: str) -> TrainingConfig:
    """The configuration with a family's recipe filled in, for `--help` and as the start of a run.

    Args:
        model: what `--model` names. For a hub id that is not in the table, what the recipe will be
            is known only when its config has been fetched: its fields stay open. So does what
            follows from other settings (horizon, escape steps, escape weight): a flag for those
            moves it.

    Raises:
        MmcbError: no such family or folder.
    """
    family = known_family(model) or _family_of_folder(Path(model))
    if family is None:
        return TrainingConfig(model=model)
    defaults: RecipeDefaults = family.defaults
    values = {name: getattr(defaults, name) for name in SAME_NAME}
    return TrainingConfig(
        model=model,
        lora_layers=defaults.lora_layers,
        retain_mask=defaults.retain_mask,
        evaluate=defaults.evaluate_after,
        **values,
    )


def recipe_of(config: TrainingConfig) -> Recipe:
    """The recipe of a configuration, without the model's weights.

    Raises:
        MmcbError: no such model, or layers that do not fit.
    """
    family = known_family(config.model) or _family_of_folder(Path(config.model))
    if family is None:
        from mmcb.models.loading import read_config

        family = row_or_generic(read_config(config.model), name=config.model)
    return resolve_recipe(config, family)


def read_recipe(path: Path) -> Recipe:
    """Read a run's recipe.json.

    Raises:
        MmcbError: it is not there, or not a recipe of this version.
    """
    try:
        return Recipe.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise MmcbError(f"{path} is not a recipe: {error}") from error


def _check_layers(recipe: Recipe, asked: tuple[int, int], family: Family) -> None:
    targets, (first, last) = recipe.target_layers, asked
    if not targets or min(targets) < 1 or max(targets) > family.num_blocks:
        raise MmcbError(
            f"target layers {list(targets)} do not fit {family.name}",
            hint=f"give indices into hidden_states, 1 to {family.num_blocks}: --target-layers 4 6",
        )
    if not 0 <= first <= last < family.num_blocks or first >= min(targets):
        raise MmcbError(
            f"the adapter's blocks {first} to {last} do not reach target layer {min(targets)}",
            hint=f"the first must come before it: --lora-layers 0 {max(targets) - 1}",
        )


def _family_of_folder(folder: Path) -> Family | None:
    file = folder / "config.json"
    return row_or_generic(read_json(file), name=str(folder)) if file.is_file() else None


def _first(*values: Any) -> Any:
    """The first that is not None."""
    return next(value for value in values if value is not None)
