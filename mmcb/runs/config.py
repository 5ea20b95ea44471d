"""Settings of `mmcb runs ls`, `show` and `compare`. Imports no torch: they answer at once."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import Field

from mmcb.config import Config


class LsConfig(Config):
    """List the runs in a folder, the newest first."""

    root: tyro.conf.Positional[Path] = Path("runs")
    """Folder of the runs; those up to four levels below it are found."""

    kind: str | None = None
    """Only runs of one command, such as training or attacks.gcg; attacks for all of them."""

    model: str | None = None
    """Only runs of one model."""

    limit: int = Field(default=30, ge=1)
    """How many at most."""


class ShowConfig(Config):
    """Tell everything about a run: how it was made, by which settings, what came out."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""


class CompareConfig(Config):
    """Put the results of evaluations side by side, and say what else differs between them."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished evaluations, or of trainings that ended with one."""

    names: tuple[str, ...] = ()
    """What to call them, one name each; the folders' names by default."""

    out: Path | None = None
    """Also write the comparison as a page, such as comparison.html: tables, charts, pictures."""

    title: str = "Circuit breakers: models side by side"
    """The page's title."""

    show_harmful: bool = False
    """Show harmful answers in the page instead of their length and verdict."""
