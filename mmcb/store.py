"""Records on disk: append-only JSONL that survives a kill, resume by id, atomic files, hashes.

A line counts once its newline is written. A last line without one was torn by a kill: readers that
resume ignore it, and the next writer cuts it off.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Generic, TypeVar

from pydantic import ValidationError

from mmcb.errors import MmcbError
from mmcb.records import Record

RecordT = TypeVar("RecordT", bound=Record)
T = TypeVar("T")


def record_id(*parts: str | int) -> str:
    """Name a record by what it is made from: 16 hex digits of a SHA-256."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def read_records(path: Path, type_: type[RecordT]) -> Iterator[RecordT]:
    """Yield the records of a JSONL file; blank lines are skipped.

    Raises:
        MmcbError: If the file is missing, or a line is not such a record (named by file and line).
    """
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield parse_record(line, type_, path=path, number=number)


def read_distinct(path: Path, type_: type[RecordT]) -> list[RecordT]:
    """All records of a JSONL file whose ids name one record each.

    Raises:
        MmcbError: As `read_records`; or an id comes twice.
    """
    records: dict[str, RecordT] = {}
    for record in read_records(path, type_):
        if record.id in records:
            raise MmcbError(
                f"{path}: id {record.id} stands twice", hint="give each record an id of its own"
            )
        records[record.id] = record
    return list(records.values())


class RecordFile(Generic[RecordT]):
    """The records of a JSONL file, read anew each time they are gone through, one at a time."""

    def __init__(self, path: Path, type_: type[RecordT]) -> None:
        self.path = Path(path)
        self._type = type_

    def __iter__(self) -> Iterator[RecordT]:
        return read_records(self.path, self._type)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in their order, `size` at a time; the last batch may be smaller."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def parse_record(line: bytes, type_: type[RecordT], *, path: Path, number: int) -> RecordT:
    """Read one line of a file.

    Raises:
        MmcbError: If it is not such a record (named by file and line).
    """
    try:
        return type_.model_validate_json(line)
    except ValidationError as error:
        raise _line_error(path, number, line, type_, error) from None


def _open(path: Path) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise MmcbError(f"{path}: {error.strerror or error}") from None


def _line_error(
    path: Path, number: int, line: bytes, type_: type[Record], error: ValidationError
) -> MmcbError:
    if not line.endswith(b"\n"):
        return MmcbError(
            f"{path}:{number}: the last line is cut off",
            hint="run the command that writes this file again; it goes on from the line before",
        )
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    problem = f"{field}: {first['msg']}" if field else first["msg"]
    return MmcbError(f"{path}:{number}: not a valid {type_.__name__} record: {problem}")


def existing_ids(path: Path) -> set[str]:
    """Return the ids of all finished lines; empty if there is no file.

    Raises:
        MmcbError: If a finished line holds no id.
    """
    ids: set[str] = set()
    if not Path(path).exists():
        return ids
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            if not line.strip():
                continue
            try:
                ids.add(str(json.loads(line)["id"]))
            except (ValueError, KeyError, TypeError):
                raise MmcbError(f"{path}:{number}: not a record with an id") from None
    return ids


class RecordWriter:
    """Appends records to a JSONL file; what `write` has returned from is on disk.

    Use as a context manager. Opening cuts off a line torn by a kill; a second writer of the same
    file is refused.

    Args:
        path: The file; it and its folders are made if missing.
        type_: If given, the only type of record that the file takes.
    """

    def __init__(self, path: Path, type_: type[Record] | None = None) -> None:
        self.path = Path(path)
        self._type = type_
        self._file: BinaryIO | None = None

    def __enter__(self) -> "RecordWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise MmcbError(
                f"{self.path}: another process is writing this file",
                hint="wait for it to end, or give this command another --out",
            ) from None
        _cut_torn_line(file)
        self._file = file
        return self

    def write(self, records: Iterable[Record]) -> None:
        """Append the records and wait until they are on disk.

        Raises:
            TypeError: If a record is not of the writer's type.
        """
        if self._file is None:
            raise ValueError("RecordWriter is open only inside its with block")
        wrote = False
        for record in records:  # one at a time: there may be more of them than memory holds
            if self._type is not None and not isinstance(record, self._type):
                raise TypeError(f"{self.path} takes {self._type.__name__}, got {type(record)}")
            self._file.write(record.model_dump_json().encode() + b"\n")
            wrote = True
        if wrote:
            self._file.flush()
            os.fsync(self._file.fileno())

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            # Unlocked by hand: a forked data worker may still hold a copy of the open file.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
            self._file = None


def _cut_torn_line(file: BinaryIO) -> None:
    """Truncate a file, open for appending and reading, to the end of its last finished line."""
    end = file.seek(0, os.SEEK_END)
    keep = end
    while keep > 0:
        start = max(0, keep - 65536)
        file.seek(start)
        newline = file.read(keep - start).rfind(b"\n")
        if newline >= 0:
            keep = start + newline + 1
            break
        keep = start
    if keep < end:
        file.truncate(keep)
    file.seek(0, os.SEEK_END)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a whole file bit by bit: a reader, or a kill, sees the old one or the new one whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a whole file at once, as `replacing` does."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def replace_records(path: Path, records: Iterable[Record]) -> None:
    """Write a whole JSONL file atomically; the records may come one at a time."""
    with replacing(path) as file:
        for record in records:
            file.write(record.model_dump_json().encode() + b"\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and keep other processes of mmcb out of it; a kill frees it.

    Raises:
        MmcbError: It cannot be made, or another process is working in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)  # the folder itself: no file that is left behind
    except OSError as error:
        raise MmcbError(
            f"cannot write to the folder {folder}: {error.strerror}", hint="give another --out"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise MmcbError(
            f"another process is working in {folder}",
            hint="wait for it to end, or give this command another --out",
        ) from None
    except OSError:
        pass  # a file system without such locks
    try:
        yield
    finally:
        with suppress(OSError):  # by hand, as above: a process forked meanwhile holds a copy
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hash(folder: Path) -> str:
    """Twelve hex digits over the weights and JSON files right in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json") and path.is_file():
            digest.update(f"{path.name} {file_hash(path)}\n".encode())
    return digest.hexdigest()[:12]


def resolve_image(jsonl_path: Path, image: str) -> Path:
    """Return the absolute path of an image named in a JSONL file."""
    return Path(os.path.abspath(Path(jsonl_path).parent / image))


def relative_image(jsonl_path: Path, image_path: Path) -> str:
    """Return how an image is to be named in a JSONL file: a POSIX path from the file's folder.

    Neither symbolic link is followed, so that a folder of links stays portable.
    """
    folder = os.path.abspath(Path(jsonl_path).parent)
    return Path(os.path.relpath(os.path.abspath(image_path), folder)).as_posix()
