"""Suite files: which attacks, with which settings, and how their attempts are evaluated.

A suite is TOML. Every `[[attack]]` has a `name`, a `command` of `mmcb` and settings of that
command, by the names they have in its config.json, and `on = "text"` where a model that sees is to
be attacked without a picture; `[evaluation]` has settings of `evaluation`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.suite.commands import COMMANDS, Command

FOLDER = Path(__file__).parent / "suites"
_KEYS = frozenset({"attack", "evaluation"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One attack of a suite.

    Args:
        name: what it is called in tables; also its folder.
        command: what runs it.
        settings: of the command, a preset's already among them.
        on_text: attacks the behaviors without a picture (`on = "text"`).
    """

    name: str
    command: Command
    settings: Mapping[str, Any]
    on_text: bool = False


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite file, read."""

    name: str
    path: Path
    entries: tuple[Entry, ...]
    evaluation: Mapping[str, Any]


def read_suite(name: str) -> Suite:
    """The package's suite of that name, or the suite in a file.

    Raises:
        MmcbError: there is no such suite, or the file is no suite.
    """
    path = _locate(name)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MmcbError(f"--suite {path}: {error.strerror}") from error
    except ValueError as error:
        raise MmcbError(f"{path}: not TOML: {error}") from None
    if unknown := sorted(data.keys() - _KEYS):
        raise MmcbError(f"{path}: unknown key {unknown[0]!r}", hint=_hint(unknown[0], _KEYS))
    evaluation = data.get("evaluation", {})
    rows = data.get("attack", [])
    if not isinstance(evaluation, dict) or not isinstance(rows, list):
        raise MmcbError(f"{path}: attacks stand under [[attack]], the rest under [evaluation]")
    entries = tuple(_entry(path, number, row) for number, row in enumerate(rows, start=1))
    names = [entry.name for entry in entries]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise MmcbError(f"{path}: two attacks are called {twice!r}", hint="give each its own name")
    return Suite(path.stem, path, entries, evaluation)


def _locate(name: str) -> Path:
    shipped = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
    if name in shipped:
        return shipped[name]
    if not Path(name).is_file():
        raise MmcbError(
            f"--suite {name}: there is no such suite or file",
            hint=f"one of {', '.join(shipped)}, or a TOML file (docs/data-format.md)",
        )
    return Path(name)


def _entry(path: Path, number: int, row: Any) -> Entry:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise MmcbError(f"{path}: attack {number} has no name", hint='write name = "..." in it')
    name = row["name"]
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise MmcbError(
            f"{path}: {name!r} is no name for an attack", hint="it names a folder: a-z, 0-9, -, _"
        )
    command = COMMANDS.get(str(row.get("command")))
    if command is None:
        asked = row.get("command")
        raise MmcbError(
            f"{path}: attack {name!r} has "
            + ("no command" if asked is None else f"an unknown command {asked!r}"),
            hint=_hint(str(asked), COMMANDS),
        )
    if row.get("on") not in (None, "text"):
        raise MmcbError(
            f"{path}: attack {name!r}: on = {row['on']!r}", hint='leave it out, or "text"'
        )
    settings = {key: value for key, value in row.items() if key not in ("name", "command", "on")}
    preset = settings.get("preset")
    if isinstance(preset, str) and preset in command.presets:
        settings = {**command.presets[preset], **settings}
    return Entry(name, command, settings, on_text="on" in row)


def _hint(word: str, known: Mapping[str, Any] | frozenset[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
