"""Which models are evaluated, and which judge: base and adapter, with fingerprints of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.generation.config import EngineConfig
from mmcb.generation.factory import check_available, make_generator, named_family
from mmcb.generation.protocol import TextGenerator
from mmcb.log import get_logger
from mmcb.models.families import known_family
from mmcb.run_folder import newest_run
from mmcb.store import folder_hash

_log = get_logger(__name__)

ADAPTER_FILE = "adapter_config.json"


def find_adapter(adapter: str, *, model: str, runs: Path = Path("runs/training")) -> Path | None:
    """The adapter's folder, None for "none".

    `adapter` is a folder with an adapter, a training run's folder (its `adapter/` is meant),
    "newest" or "none".

    Raises:
        MmcbError: there is no such adapter.
    """
    train = f"python -m mmcb.training --model {model}"
    if adapter == "none":
        return None
    if adapter == "newest":
        run = newest_run(runs, "training", where=lambda m: m["config"].get("model") == model)
        if run is None:
            raise MmcbError(
                f"no finished training run of {model} in {runs}",
                hint=f"`{train}`, or evaluate the base model alone with --adapter none",
            )
        return run / "adapter"
    for folder in (Path(adapter), Path(adapter) / "adapter"):
        if (folder / ADAPTER_FILE).is_file():
            return folder
    raise MmcbError(f"{adapter} holds no adapter (no {ADAPTER_FILE})", hint=f"train one: {train}")


def training_run_of(adapter: Path | None) -> Path | None:
    """The training run that an adapter came out of, None if its folder is not in one."""
    if adapter is None or not (adapter.parent / "manifest.json").is_file():
        return None
    return adapter.parent


def base_fingerprint(model: str) -> str:
    """A short hash of a model's local weights; its name where they are on the hub.

    The shipped models are files that a developer may train anew: answers of the old ones must
    not be taken for answers of the new ones.
    """
    family = known_family(model)
    folder = Path(model) if Path(model).is_dir() else (family.folder if family else None)
    if folder is None or not folder.is_dir():
        return model
    return f"{Path(model).name}-{folder_hash(folder)}"


def fingerprints(model: str, adapter: Path | None, engine: EngineConfig) -> dict[str, str]:
    """The weights of each role that is measured: "base", and with an adapter "defended".

    With what runs them, where that is not what runs them by default: another engine or precision
    gives other answers.
    """
    # Which weights a server has, it does not tell: its answers count for its name alone.
    base = model if engine.name == "server" else base_fingerprint(model)
    if engine.name != "transformers":
        base = f"{engine.name}:{base}"
    if engine.dtype != "auto" and engine.name != "server":
        base = f"{base}@{engine.dtype}"
    return (
        {"base": base}
        if adapter is None
        else {"base": base, "defended": f"{base}+{folder_hash(adapter)}"}
    )


def same_weights(one: str, other: str) -> bool:
    """Whether two of `fingerprints` are of the same weights, whatever runs them.

    What a server has it does not tell: it may be.
    """
    engine, weights = _split(one)
    other_engine, other_weights = _split(other)
    return "server" in (engine, other_engine) or weights == other_weights


def _split(fingerprint: str) -> tuple[str, str]:
    """The engine and the weights, without a precision between base and adapter."""
    engine, _, rest = fingerprint.rpartition(":")
    base, plus, adapter = rest.partition("+")
    return engine, base.partition("@")[0] + plus + adapter


@dataclass(frozen=True, slots=True)
class Roles:
    """The models that are measured: the base and, with an adapter, the defended one."""

    model: str
    adapter: Path | None
    engine: EngineConfig
    weights: dict[str, str]
    """Each role's fingerprint."""

    def generator(self, role: str) -> TextGenerator:
        """Load a role's model."""
        adapter = None if role == "base" else self.adapter
        _log.info("loading %s%s", self.model, "" if adapter is None else f" with {adapter}")
        return make_generator(self.engine, self.model, adapter)

    def settings(self) -> dict[str, Any]:
        """As they stand in the settings of a results.json."""
        adapter = None if self.adapter is None else str(self.adapter)
        return {
            "model": self.model,
            "adapter": adapter,
            "weights": self.weights,
            "engine": self.engine.name,
        }


def find_roles(model: str, adapter: str, engine: EngineConfig) -> Roles:
    """What a command's --model, --adapter and engine name.

    Raises:
        MmcbError: there is no such model or adapter.
    """
    named_family(engine, model)
    found = find_adapter(adapter, model=model)
    return Roles(model, found, engine, fingerprints(model, found, engine))


def require_judge(engine: EngineConfig, model: str) -> None:
    """Say now, not after hours of answers, that the model of a judge cannot be had.

    Raises:
        MmcbError: it cannot, as far as can be seen without loading it.
    """
    try:
        check_available(engine, model)
    except MmcbError as error:
        hint = (
            "name another, or one of a server's: --judge-engine.engine server "
            "--judge-engine.server-url URL"
        )
        raise MmcbError(
            f"judge {model}: {error.message}", hint=error.hint if engine.name == "server" else hint
        ) from None
