"""Which weights are evaluated: the adapter that is meant, and fingerprints of both models."""

from __future__ import annotations

from pathlib import Path

from mmcb.errors import MmcbError
from mmcb.models.families import known_family
from mmcb.run_folder import newest_run
from mmcb.store import folder_hash

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


def adapter_fingerprint(adapter: Path) -> str:
    """A short hash of an adapter's weights and configuration."""
    return folder_hash(adapter)


def fingerprints(model: str, adapter: Path | None, *, on_server: bool = False) -> dict[str, str]:
    """The weights of each role that is measured: "base", and with an adapter "defended"."""
    # Which weights a server has, it does not tell: its answers count for its name alone.
    base = f"server:{model}" if on_server else base_fingerprint(model)
    if adapter is None:
        return {"base": base}
    return {"base": base, "defended": f"{base}+{adapter_fingerprint(adapter)}"}
