"""Which model to attack, with which adapter, on which behaviors. Imports no torch.

Everything a user may have got wrong about them is found here, before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from mmcb.attacks.config import AttackConfig
from mmcb.errors import MmcbError
from mmcb.models.families import known_family
from mmcb.models.locate import locate, read_json
from mmcb.records import Behavior
from mmcb.run_folder import newest_run, read_manifest
from mmcb.store import read_distinct

Label = Literal["base", "defended"]
TRAINING_RUNS = Path("runs/training")
TINY_MODEL = "tiny-llava-next"
TINY_BEHAVIORS = Path("data/miniature/evaluation/behaviors.jsonl")

Models = tuple[str, Path | None, tuple[Label, ...]]
ConfigT = TypeVar("ConfigT", bound=AttackConfig)


@dataclass(frozen=True, slots=True)
class Targets:
    """What is attacked.

    Args:
        model: name of the base model.
        adapter: the adapter's folder, None when only the base model is attacked.
        labels: the models attacked, in order.
        behaviors: the file of behaviors.
    """

    model: str
    adapter: Path | None
    labels: tuple[Label, ...]
    behaviors: Path

    @property
    def adapter_name(self) -> str:
        """As `--adapter` takes it."""
        return "none" if self.adapter is None else str(self.adapter)


def locate_targets(config: ConfigT) -> tuple[ConfigT, Targets]:
    """The settings with model, adapter and behaviors found, after every cheap check of them.

    Raises:
        MmcbError: no trained adapter, a folder without one, an unknown or a text-only model, no
            behaviors for a real model, a checkpoint that cannot be had.
    """
    if config.model is not None:
        # First of all: without the checkpoint, advice about its adapter would lead nowhere.
        locate(config.model)
    model, adapter, labels = _find_models(config)
    targets = Targets(model, adapter, labels, _behaviors_file(config, model))
    found = {
        "model": targets.model,
        "adapter": targets.adapter_name,
        "behaviors": targets.behaviors,
    }
    return config.model_copy(update=found), targets


def rerouted_layers(adapter: Path | None, model: str) -> tuple[int, ...]:
    """The target layers of the run that made an adapter, else those of the model's recipe.

    Args:
        adapter: the adapter's folder; None: no layers.
        model: name of the base model.
    """
    if adapter is None:
        return ()
    for folder in (adapter, adapter.parent):
        if (folder / "recipe.json").is_file():
            layers = read_json(folder / "recipe.json").get("target_layers")
            if isinstance(layers, list) and layers:
                return tuple(int(layer) for layer in layers)
    family = locate(model).family
    return () if family is None else family.defaults.target_layers


def _find_models(config: AttackConfig) -> Models:
    """Work out model, adapter and labels from the flags and the finished training runs."""
    wants_defended = config.target_models != "base"
    if config.adapter == "none":
        return _without_adapter(config)
    if config.adapter == "newest":

        def suits(manifest: Mapping[str, Any]) -> bool:
            return _suits(manifest, config)

        run = newest_run(TRAINING_RUNS, "training", where=suits)
        if run is None and not wants_defended and config.model is not None:
            return _without_adapter(config)
        if run is None:
            raise _no_adapter(config)
        adapter = adapter_folder(run)
    else:
        adapter = adapter_folder(Path(config.adapter))
    model = config.model or trained_model(adapter)
    if config.needs_images:
        _check_takes_images(model, config.command)
    if not wants_defended:
        return model, None, ("base",)
    labels: tuple[Label, ...] = ("base", "defended")
    if config.target_models == "defended":
        labels = ("defended",)
    return model, adapter, labels


def adapter_folder(path: Path) -> Path:
    """The adapter in `path`, which is its own folder or that of the training run around it.

    Raises:
        MmcbError: there is no adapter.
    """
    for folder in (path, path / "adapter"):
        if (folder / "adapter_config.json").is_file():
            return folder
    raise MmcbError(
        f"{path} holds no adapter (no adapter_config.json)",
        hint="give --adapter the folder of a training run, or leave it out for the newest",
    )


def trained_model(adapter: Path) -> str:
    """Name of the model that an adapter was trained for, from the run it lies in.

    Raises:
        MmcbError: the adapter does not lie in a training run.
    """
    for folder in (adapter, adapter.parent):
        if (folder / "manifest.json").is_file():
            model = read_manifest(folder).get("config", {}).get("model")
            if isinstance(model, str):
                return model
    raise MmcbError(
        f"{adapter}: nothing there says which model the adapter was trained for",
        hint="add --model NAME",
    )


def _behaviors_file(config: AttackConfig, model: str) -> Path:
    """The file of behaviors: the flag's, or the miniature's own for the tiny model."""
    if config.behaviors is not None:
        if not config.behaviors.is_file():
            raise MmcbError(
                f"--behaviors {config.behaviors}: there is no such file",
                hint="give a JSONL file of Behavior records; see docs/data-format.md",
            )
        return config.behaviors
    if model != TINY_MODEL:
        raise MmcbError(
            f"no behaviors to attack {model} with",
            hint="give --behaviors FILE (Behavior records, docs/data-format.md); here works: "
            f"python -m mmcb.{config.command} --model {TINY_MODEL}",
        )
    if not TINY_BEHAVIORS.is_file():
        raise MmcbError(f"{TINY_BEHAVIORS} is not there yet", hint="python -m mmcb.miniature")
    return TINY_BEHAVIORS


def load_behaviors(
    path: Path, *, needs_image: bool = False, needs_target: bool = True, limit: int | None = None
) -> list[Behavior]:
    """The first `limit` behaviors that can be attacked.

    Args:
        path: the JSONL file.
        needs_image: leave out behaviors without a picture of their own.
        needs_target: whether a behavior without a target is an error.
        limit: how many at most.

    Raises:
        MmcbError: a line is no behavior, an id comes twice, a target is missing, or none is left.
    """
    behaviors = [
        behavior
        for behavior in read_distinct(path, Behavior)
        if behavior.image is not None or not needs_image
    ][:limit]
    if not behaviors:
        missing = "behavior with an image" if needs_image else "behavior"
        hint = "--image-folder DIR pairs behaviors with photographs" if needs_image else ""
        raise MmcbError(f"{path} holds no {missing}", hint=hint or "give other --behaviors")
    aimless = [behavior.id for behavior in behaviors if not behavior.target.strip()]
    if aimless and needs_target:
        raise MmcbError(
            f"{path}: behavior {aimless[0]} has no target to aim at "
            f"({len(aimless)} of {len(behaviors)} have none)",
            hint="write into `target` how the answer is to begin",
        )
    return behaviors


def _without_adapter(config: AttackConfig) -> Models:
    if config.target_models == "defended":
        raise MmcbError(
            "--adapter none leaves no defended model to attack",
            hint="give --adapter DIR, or --target-models base",
        )
    model = config.model or TINY_MODEL
    if config.needs_images:
        _check_takes_images(model, config.command)
    return model, None, ("base",)


def _suits(manifest: Mapping[str, Any], config: AttackConfig) -> bool:
    """Whether a training run is of this model or, if none is named, of one that can be attacked."""
    trained = manifest.get("config", {}).get("model")
    if not isinstance(trained, str):
        return False
    if config.model is not None:
        return trained == config.model
    return not config.needs_images or _takes_images(trained)


def _takes_images(model: str) -> bool:
    try:
        family = known_family(model)
    except MmcbError:
        return False
    # A hub id or folder that is no row of the table is only known once its config is read.
    return family is None or family.kind == "vlm"


def _check_takes_images(model: str, command: str) -> None:
    family = locate(model).family
    if family is not None and family.kind != "vlm":
        raise MmcbError(
            f"{model} takes no images, so none can hijack it",
            hint=f"python -m mmcb.{command} --model {TINY_MODEL}",
        )


def _no_adapter(config: AttackConfig) -> MmcbError:
    name = config.model or TINY_MODEL
    of_model = f" of {config.model}" if config.model else ""
    return MmcbError(
        f"no finished training run{of_model} in {TRAINING_RUNS}, so there is no adapter to attack",
        hint=f"python -m mmcb.training --model {name}   (or attack the base model alone: "
        f"python -m mmcb.{config.command} --model {name} --adapter none)",
    )
