"""The runs on disk: which there are, and how each one stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.run_folder import read_manifest

LEVELS = 4
"""Folders below the root that are looked into: a suite's attacks lie so deep in `runs`."""

QUIET_MINUTES = 15
"""A run that is not finished and has written nothing for so long counts as stopped."""

_STATES = {"complete": "finished", "failed": "failed", "interrupted": "interrupted"}


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder with its manifest."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The command that made it."""
        return str(self.manifest["command"])

    @property
    def model(self) -> str:
        """The model it was about; empty where there is none."""
        return str((self.manifest.get("config") or {}).get("model") or "")

    @property
    def started(self) -> datetime:
        """When it was started first."""
        return _time(str(self.manifest["started"]))

    @property
    def seconds(self) -> float | None:
        """From the first start to the end, pauses included; None before the end."""
        finished = self.manifest.get("finished")
        return (_time(str(finished)) - self.started).total_seconds() if finished else None

    def state(self, now: datetime | None = None) -> str:
        """finished, failed, interrupted, running, or stopped.

        A killed run cannot say so in its manifest: it is told from one that runs by whether
        anything in its folder was written within `QUIET_MINUTES`.
        """
        known = _STATES.get(str(self.manifest["status"]))
        if known is not None:
            return known
        quiet = (now or datetime.now(UTC)).timestamp() - _last_written(self.path)
        return "running" if quiet < 60 * QUIET_MINUTES else "stopped"


def find_runs(root: Path) -> list[Run]:
    """Every run up to `LEVELS` levels below a folder, the newest first.

    Raises:
        MmcbError: there is no such folder.
    """
    if not root.is_dir():
        raise MmcbError(
            f"no folder of runs at {root}",
            hint="name it, or make a first run: python -m mmcb.demo",
        )
    return sorted(_runs(root), key=lambda run: (run.started, str(run.path)), reverse=True)


def evaluation_folder(run: Path) -> Path:
    """Where a run's results are: in itself, or in the evaluation that it ended with."""
    inner = run / "evaluation"
    return inner if (inner / "results.json").is_file() else run


def _runs(root: Path) -> Iterator[Run]:
    for level in range(LEVELS + 1):
        for file in root.glob("*/" * level + "manifest.json"):
            try:
                run = Run(file.parent, read_manifest(file.parent))
                _ = run.started
            except (MmcbError, ValueError):
                continue  # someone else's manifest.json
            yield run


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _last_written(path: Path) -> float:
    """The newest change in the folder, of the runs inside it too: a suite writes into those."""
    inside = (file for depth in (1, 2, 3) for file in path.glob("/".join("*" * depth)))
    return max(file.stat().st_mtime for file in (path, *inside))
