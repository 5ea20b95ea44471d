"""Rows of other people's files: JSON lists, JSON lines, CSV and Parquet, each with its place."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ijson

from mmcb.errors import MmcbError
from mmcb.records import Message, Provenance
from mmcb.sources.source import Kind

PARQUET_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One record of someone's file.

    Attributes:
        where: file and line, or file[index] (from 0) where records have no lines of their own.
        values: the record.
    """

    where: str
    values: Mapping[str, Any]

    def problem(self, text: str) -> MmcbError:
        """The error that names this record."""
        return MmcbError(f"{self.where}: {text}")

    def text(self, key: str) -> str:
        """A value that must be text, and not blank.

        Raises:
            MmcbError: it is missing, or something else.
        """
        value = self.values.get(key)
        if key not in self.values or value is None:
            keys = ", ".join(str(name) for name in self.values)
            raise self.problem(f"{key}: missing (there is {keys or 'nothing'})")
        if not isinstance(value, str):
            raise self.problem(f"{key}: must be text, is {type(value).__name__}")
        if not value.strip():
            raise self.problem(f"{key}: is empty")
        return value

    def turns(self, key: str, *, role: str, content: str) -> list[tuple[str, str]]:
        """A list of turns as (role, text); a text may be empty.

        Args:
            key: name of the list.
            role: name of the role in a turn.
            content: name of the text in a turn.

        Raises:
            MmcbError: it is missing, empty, or not made of such turns.
        """
        turns = self.values.get(key)
        if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
            raise self.problem(f"{key}: must be a list of {role} and {content}")
        found = []
        for number, turn in enumerate(turns):
            values = turn if isinstance(turn, Mapping) else {}
            for name in (role, content):
                if not isinstance(values.get(name), str):
                    raise self.problem(f"{key}[{number}].{name}: must be text")
            found.append((values[role], values[content]))
        return found


@dataclass(frozen=True, slots=True)
class Reading:
    """What a format's reader knows besides the row.

    Attributes:
        kind: the set that the examples are for.
        name: the data set's name, for the provenance.
        revision: its commit on the hub, if it has one.
        file: the file that image paths are to be relative to.
        image_folder: where images lie; None for the file's own folder.
    """

    kind: Kind
    name: str
    revision: str | None
    file: Path
    image_folder: Path | None

    def provenance(self, row: Row, *, format_: str) -> Provenance:
        """Where an example comes from."""
        own = row.values.get("id", row.values.get("prompt_id"))
        return Provenance(
            generator=self.name,
            revision=self.revision,
            source_id=row.where if own is None else str(own),
            settings={"format": format_},
        )


def conversation(row: Row, key: str, turns: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Check that a conversation can be learnt from, and make messages of it.

    It may begin with a system's turn; user and assistant alternate, and the assistant ends it.

    Args:
        row: the record, for the errors.
        key: name of the list of turns.
        turns: (role, text) with mmcb's roles.

    Raises:
        MmcbError: it is none, with the turn.
    """
    start = 1 if turns[0][0] == "system" else 0
    for number, (role, _) in enumerate(turns[start:], start=start):
        wanted = "user" if (number - start) % 2 == 0 else "assistant"
        if role != wanted:
            raise row.problem(f"{key}[{number}]: is the {role}'s turn, not the {wanted}'s")
    if len(turns) - start < 2 or turns[-1][0] != "assistant":
        raise row.problem(f"{key}: must end with the assistant's answer to a user")
    if not turns[-1][1].strip():
        raise row.problem(f"{key}[{len(turns) - 1}]: the answer is empty")
    return tuple(Message.model_validate({"role": role, "content": text}) for role, text in turns)


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, by its suffix; `.json` and `.jsonl` may each hold either form.

    Raises:
        MmcbError: the file is missing, of another type, or broken at some line.
    """
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows, ".json": _json, ".jsonl": _json}
    reader = readers.get(path.suffix)
    if reader is None:
        known = ", ".join(readers)
        raise MmcbError(f"{path}: a file of records ends in one of {known}")
    try:
        yield from reader(path)
    except OSError as error:
        raise MmcbError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise MmcbError(f"{path}: not UTF-8 text") from None


def row_of(where: str, values: Any) -> Row:
    """A row, if it is an object of named values.

    Raises:
        MmcbError: it is not.
    """
    if not isinstance(values, Mapping):
        raise MmcbError(f"{where}: must be a JSON object, is {type(values).__name__}")
    return Row(where, values)


def _json(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        file.seek(0)
        if start != "[":
            yield from _json_lines(path, file)
            return
    yield from _json_list(path)


def _json_list(path: Path) -> Iterator[Row]:
    """One item at a time: LLaVA-Instruct's list has a gigabyte."""
    number = 0
    with path.open("rb") as file:
        file.seek(len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0)
        try:
            for item in ijson.items(file, "item", use_float=True):
                yield row_of(f"{path}[{number}]", item)
                number += 1
        except (ijson.JSONError, ValueError) as error:
            problem = " ".join(str(error).split())
            raise MmcbError(f"{path}: not JSON, after {number} records: {problem}") from None


def _json_lines(path: Path, lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            if not line.endswith("\n"):
                raise MmcbError(
                    f"{path}:{number}: the last line is cut off",
                    hint="run what writes this file again, or delete the line",
                ) from None
            raise MmcbError(f"{path}:{number}: not JSON: {error}") from None
        yield row_of(f"{path}:{number}", values)


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for values in reader:
                # A quoted field may run over several lines; the row is where it begins.
                inner = sum(text.count("\n") for text in values.values() if isinstance(text, str))
                row = Row(f"{path}:{reader.line_num - inner}", values)
                if None in values:
                    raise row.problem("has more fields than the header")
                yield row
        except csv.Error as error:
            raise MmcbError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=PARQUET_ROWS):
            for values in batch.to_pylist():
                yield row_of(f"{path}[{number}]", values)
                number += 1
    except pyarrow.ArrowInvalid as error:
        raise MmcbError(f"{path}: not Parquet: {error}") from None
