"""Where each record of a JSONL file stands, kept on disk: memory does not grow with the file."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic

from mmcb.errors import MmcbError
from mmcb.store import RecordT, parse_record, replacing

_CHUNK = 1000
"""Offsets fetched at once, so that the index may change while it is read."""


def temporary_database() -> sqlite3.Connection:
    """A private database that SQLite spills to a nameless file: gone when it is closed."""
    database = sqlite3.connect("")
    # No other process ever sees it, so neither a journal nor a flush is worth its time.
    database.execute("PRAGMA journal_mode=OFF")
    database.execute("PRAGMA synchronous=OFF")
    database.execute("PRAGMA cache_size=-500")  # KiB: a run has three of these
    return database


class RecordIndex(Generic[RecordT]):
    """The finished lines of a JSONL file by id and by image; of a repeated id, the last line.

    Args:
        path: The file; it may be missing, and be appended to: `refresh` reads what is new.
        type_: The records that it holds.

    Raises:
        MmcbError: A finished line holds no id.
    """

    def __init__(self, path: Path, type_: type[RecordT]) -> None:
        self.path = Path(path)
        self._type = type_
        self._end = 0
        self._lines = 0
        self.repeated = 0
        """How many lines had an id that an earlier line has."""
        self._db = temporary_database()
        self._db.execute(
            "CREATE TABLE line (id TEXT PRIMARY KEY, start INTEGER, number INTEGER, image TEXT)"
            " WITHOUT ROWID"
        )
        self._db.execute("CREATE INDEX by_image ON line (image, start)")
        self.refresh()

    def refresh(self) -> None:
        """Take up the lines that were finished since the last look."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._lines += 1
                if line.strip():
                    self._add(line)
                self._end += len(line)

    def _add(self, line: bytes) -> None:
        try:
            content = json.loads(line)
            id_, image = str(content["id"]), content.get("image")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise MmcbError(f"{self.path}:{self._lines}: not a record with an id") from None
        self.repeated += id_ in self
        self._db.execute(
            "INSERT OR REPLACE INTO line VALUES (?, ?, ?, ?)",
            (id_, self._end, self._lines, None if image is None else str(image)),
        )

    def __contains__(self, id_: str) -> bool:
        found = self._db.execute("SELECT 1 FROM line WHERE id = ?", (id_,)).fetchone()
        return found is not None

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM line").fetchone()[0])

    def discard(self, id_: str) -> None:
        """Forget a record; its line stays in the file."""
        self._db.execute("DELETE FROM line WHERE id = ?", (id_,))

    def ids(self) -> Iterator[str]:
        """The ids, sorted."""
        last = ""
        while rows := self._db.execute(
            "SELECT id FROM line WHERE id > ? ORDER BY id LIMIT ?", (last, _CHUNK)
        ).fetchall():
            yield from (str(row[0]) for row in rows)
            last = rows[-1][0]

    def images(self) -> Iterator[str]:
        """The images that records name, each once, sorted."""
        last = ""
        while rows := self._db.execute(
            "SELECT DISTINCT image FROM line WHERE image > ? ORDER BY image LIMIT ?", (last, _CHUNK)
        ).fetchall():
            yield from (str(row[0]) for row in rows)
            last = rows[-1][0]

    def has_image(self, image: str) -> bool:
        """Whether a record names this image."""
        found = self._db.execute("SELECT 1 FROM line WHERE image = ?", (image,)).fetchone()
        return found is not None

    def of_image(self, image: str) -> list[RecordT]:
        """The records of an image, in the order of their lines.

        Raises:
            MmcbError: A line is not such a record (named by file and line).
        """
        rows = self._db.execute(
            "SELECT start, number FROM line WHERE image = ? ORDER BY start", (image,)
        ).fetchall()
        return [self._read(start, number) for start, number in rows]

    def get(self, id_: str) -> RecordT | None:
        """The record of this id, or None.

        Raises:
            MmcbError: The line is not such a record (named by file and line).
        """
        row = self._db.execute("SELECT start, number FROM line WHERE id = ?", (id_,)).fetchone()
        return None if row is None else self._read(*row)

    def settle(self, order: Callable[[str], str] | None = None) -> None:
        """Write the file anew: one line an id; torn and discarded lines are gone.

        Args:
            order: What to sort the ids by; None for the order of images.
        """
        self._db.create_function("place", 1, order or str, deterministic=True)
        by = "image" if order is None else "place(id)"
        rows = self._db.execute(f"SELECT start FROM line ORDER BY {by}, start")
        with replacing(self.path) as new:
            if self.path.exists():
                with self.path.open("rb") as old:
                    for (start,) in rows:
                        old.seek(start)
                        new.write(old.readline())
        self._db.execute("DELETE FROM line")
        self._end = self._lines = 0
        self.refresh()

    def _read(self, start: int, number: int) -> RecordT:
        with self.path.open("rb") as file:
            file.seek(start)
            return parse_record(file.readline(), self._type, path=self.path, number=number)
