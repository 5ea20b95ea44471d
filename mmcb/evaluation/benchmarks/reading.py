"""What every benchmark's reader shares: its rows, its pictures, and what it makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.evaluation.benchmarks.config import BenchmarkConfig
from mmcb.records import Behavior, Task
from mmcb.sources.rows import Row, row_of
from mmcb.store import relative_image

Item = Behavior | Task


@dataclass(frozen=True, slots=True)
class Placed:
    """A record and the place it was read from, for errors about it."""

    where: str
    record: Item


Reader = Callable[[BenchmarkConfig], Iterator[Placed]]
"""Yields the records of a benchmark, in the order of its files."""


def files(source: Path, pattern: str) -> list[Path]:
    """The file itself, or a folder's files of that pattern, by name.

    Raises:
        MmcbError: it is not there, or the folder holds none.
    """
    if not source.exists():
        raise MmcbError(f"{source}: no such file or folder")
    found = sorted(source.glob(pattern)) if source.is_dir() else [source]
    if not found:
        raise MmcbError(f"{source}: holds no {pattern} file", hint="give --source the right folder")
    return found


def optional(row: Row, key: str) -> str | None:
    """A value that may be missing or blank; None then."""
    value = row.values.get(key)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return row.text(key)


def either(row: Row, *keys: str) -> str:
    """The first of these values that there is: a column that releases name differently."""
    return row.text(next((key for key in keys if key in row.values), keys[0]))


def json_object(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        MmcbError: it is missing, no JSON, or something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MmcbError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise MmcbError(f"{path}: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise MmcbError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    return dict(row_of(str(path), values).values)


def picture(config: BenchmarkConfig, row: Row, *names: str) -> str:
    """The path, relative to the records' folder, of the first of these pictures that is there.

    Args:
        config: says where pictures lie, and where the records will.
        row: the record that names them, for the error.
        names: patterns below the folder of pictures, the first that fits anything wins.

    Raises:
        MmcbError: none is there, or no folder was given.
    """
    folder = config.images
    if folder is None:
        raise row.problem(f"picture {names[0]}: --images DIR says where the pictures lie")
    return relative_image(config.out / "records", first_picture(folder, row, *names))


def first_picture(folder: Path, row: Row, *names: str) -> Path:
    """The file of the first of these pictures that is below the folder.

    Args:
        folder: where pictures lie.
        row: the record that names them, for the error.
        names: patterns below the folder, the first that fits anything wins.

    Raises:
        MmcbError: none is there.
    """
    for name in names:
        found = [folder / name] if (folder / name).is_file() else sorted(folder.glob(name))
        if found:
            return found[0]
    raise row.problem(f"no picture {' or '.join(names)} in {folder}")
