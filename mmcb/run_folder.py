"""A run's folder: what was asked (config.json), in what world (manifest.json), what came out.

The manifest's status is `started` until the run ends as `complete`, `failed` or `interrupted`;
after a kill it stays `started`. Starting in the folder of an unfinished run resumes it.
"""

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from mmcb import __version__
from mmcb.config import Config
from mmcb.errors import MmcbError
from mmcb.hardware import describe_hardware
from mmcb.log import is_main_process
from mmcb.store import file_hash, locked, write_atomic

PACKAGES = ("torch", "transformers", "peft", "torchvision", "pillow", "numpy")
# Of a folder given as an input these files are hashed whole; of the rest (images) name and size.
HASHED_SUFFIXES = (".json", ".jsonl", ".safetensors")
_OWN_KEYS = frozenset({
    "version", "command", "status", "started", "finished", "resumed", "error", "argv", "config",
    "inputs", "versions", "python", "platform", "hardware", "git",
})  # fmt: skip


class RunDir:
    """One run's folder, made by `RunDir.start`, and closed to other processes until it ends.

    As a context manager it records how the run ended.

    Attributes:
        path: The folder.
        previous_status: None for a new run, else the status that the folder's last run left.
    """

    def __init__(
        self, path: Path, manifest: dict[str, Any], *, previous_status: str | None
    ) -> None:
        self.path = path
        self.previous_status = previous_status
        self._manifest = manifest
        self._held = ExitStack()

    @classmethod
    def start(
        cls,
        path: Path,
        *,
        command: str,
        config: Config,
        inputs: Mapping[str, Path] | None = None,
        may_change: frozenset[str] = frozenset(),
    ) -> "RunDir":
        """Make the folder, or go on in it if the same run was started there before.

        Args:
            path: The run's folder.
            command: The command's name, such as `training`.
            config: The resolved settings; written to config.json.
            inputs: Files or folders the run reads, by name; their hashes go into the manifest.
            may_change: Settings that a resumed run may change, such as `batch_size`.

        Raises:
            MmcbError: If an input is missing, another process works in the folder, or it holds a
                run of another command, other settings or other inputs.
        """
        path = Path(path)
        hashes = {
            name: {"path": str(source), "sha256": _input_hash(Path(source))}
            for name, source in (inputs or {}).items()
        }
        manifest = _new_manifest(command, config.model_dump(mode="json"), hashes)
        with ExitStack() as held:
            if is_main_process():
                held.enter_context(locked(path))
            previous_status = None
            if (path / "manifest.json").exists():
                old = read_manifest(path)
                _check_same_run(path, old, manifest, may_change=may_change)
                previous_status = str(old["status"])
                manifest = {**old, **manifest, "started": old["started"]}
                manifest["resumed"] = [*old["resumed"], _now()]
                manifest.pop("error", None)
            run = cls(path, manifest, previous_status=previous_status)
            if is_main_process():
                write_atomic(path / "config.json", config.model_dump_json(indent=2) + "\n")
            run._write()
            run._held = held.pop_all()
        return run

    def file(self, name: str) -> Path:
        """Return the path of a file in the run's folder; the folders above it are made."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def log_metrics(self, metrics: Mapping[str, object]) -> None:
        """Append one line to metrics.jsonl."""
        if is_main_process():
            with self.file("metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(metrics)) + "\n")

    def note(self, key: str, value: object) -> None:
        """Add a JSON value to the manifest.

        Raises:
            ValueError: If the key is one of the manifest's own.
        """
        if key in _OWN_KEYS:
            raise ValueError(f"{key!r} is the manifest's own key")
        self._manifest[key] = value
        self._write()

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            status = "complete"
        elif isinstance(exc, KeyboardInterrupt):
            status = "interrupted"
        else:
            status = "failed"
            self._manifest["error"] = f"{type(exc).__name__}: {exc}"
        self._manifest["status"] = status
        self._manifest["finished"] = _now()
        self._manifest["hardware"] = describe_hardware()
        self._write()
        self._held.close()

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock: another process that is sent the run does not hold it."""
        return {**self.__dict__, "_held": ExitStack()}

    def _write(self) -> None:
        if is_main_process():
            write_atomic(self.path / "manifest.json", json.dumps(self._manifest, indent=2) + "\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a run's folder.

    Raises:
        MmcbError: If there is none, or it is not a manifest.
    """
    file = Path(path) / "manifest.json"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MmcbError(f"{path}: not a run's folder (no manifest.json)") from None
    except ValueError as error:
        raise MmcbError(f"{file}: not JSON: {error}") from None
    if not isinstance(manifest, dict) or not {"command", "status", "started"} <= manifest.keys():
        raise MmcbError(f"{file}: not a run's manifest")
    return manifest


def newest_run(
    root: Path,
    command: str,
    *,
    status: str | None = "complete",
    where: Callable[[dict[str, Any]], bool] | None = None,
) -> Path | None:
    """Return the folder of the newest run of a command, or None.

    Args:
        root: `runs/<command>`, or `runs` for all: folders up to two levels below are looked at.
        command: The command's name.
        status: The status it must have; None for any.
        where: A further condition on the manifest, such as
            `lambda manifest: manifest["config"]["model"] == name`.
    """
    newest: tuple[str, Path] | None = None
    for pattern in ("manifest.json", "*/manifest.json", "*/*/manifest.json"):
        for file in sorted(Path(root).glob(pattern)):
            try:
                manifest = read_manifest(file.parent)
            except MmcbError:
                continue  # someone else's manifest.json
            if manifest["command"] != command or status not in (None, manifest["status"]):
                continue
            if where is not None and not where(manifest):
                continue
            age = str(manifest.get("finished") or manifest["started"])
            if newest is None or age > newest[0]:
                newest = (age, file.parent)
    return None if newest is None else newest[1]


def timestamp() -> str:
    """Return the local time as a folder name, such as 20260131-142501."""
    return datetime.now().strftime("%Y%m%d-%H%M%S")


def git_state() -> dict[str, str | bool | None]:
    """Return the commit of the source tree that mmcb runs from and whether it is dirty.

    Both are None where mmcb is installed without its repository.
    """

    def git(*args: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *args]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # A wheel in some project's .venv lies inside a repository that is not ours.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None}
    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _new_manifest(
    command: str, settings: dict[str, Any], inputs: dict[str, dict[str, str]]
) -> dict[str, Any]:
    return {
        "version": 1,
        "command": command,
        "status": "started",
        "started": _now(),
        "finished": None,
        "resumed": [],
        "argv": list(sys.argv),
        "config": settings,
        "inputs": inputs,
        "versions": {"mmcb": __version__, **{name: _version(name) for name in PACKAGES}},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": git_state(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _input_hash(path: Path) -> str:
    if path.is_file():
        return file_hash(path)
    if not path.is_dir():
        raise MmcbError(f"{path}: no such file or folder")
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name, size = file.relative_to(path).as_posix(), file.stat().st_size
        content = file_hash(file) if file.suffix in HASHED_SUFFIXES else ""
        digest.update(f"{name}\0{size}\0{content}\n".encode())
    return digest.hexdigest()


def _check_same_run(
    path: Path, old: dict[str, Any], new: dict[str, Any], *, may_change: frozenset[str]
) -> None:
    hint = "give --out another folder, or delete this one"
    if old["command"] != new["command"]:
        raise MmcbError(f"{path}: holds a run of `{old['command']}`", hint=hint)
    was, now = old.get("config", {}), new["config"]
    changed = [
        f"{key} was {was[key]!r}, now {now[key]!r}"
        for key in now
        if key in was and was[key] != now[key] and key not in may_change
    ]
    if changed:
        raise MmcbError(f"{path}: holds a run with other settings: {'; '.join(changed)}", hint=hint)
    for name, source in new["inputs"].items():
        before = old.get("inputs", {}).get(name)
        if before is not None and before["sha256"] != source["sha256"]:
            raise MmcbError(f"{path}: {source['path']} changed since this run started", hint=hint)
