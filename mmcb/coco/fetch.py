"""Fetching one large file over HTTP: it goes on where it was cut off, and is checked when whole."""

import fcntl
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from mmcb.errors import MmcbError
from mmcb.log import ProgressBar, get_logger, progress

MEGABYTE = 1_000_000
_BLOCK = 1 << 20
_ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256"}
_FLEETING = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that are worth another try."""
_log = get_logger(__name__)


class _TryAgainError(Exception):
    """The connection broke, or the server is busy: what came so far is kept."""


def fetch(
    url: str,
    path: Path,
    *,
    size: int,
    digest: str,
    retries: int,
    timeout: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Download a file; it has its name only once it is whole and right.

    While it comes it stands beside it as `NAME.part`, and the next call goes on from there.

    Args:
        url: Where it is.
        path: Where it goes.
        size: Its length in bytes.
        digest: MD5, SHA-1 or SHA-256 in hexadecimal, told apart by length.
        retries: How often in a row a connection may fail without a byte having come.
        timeout: Seconds without a byte after which a connection counts as broken.
        sleep: Waits between tries.

    Raises:
        MmcbError: It cannot be had, or is not what it should be; a wrong file is deleted.
    """
    if path.exists():  # whole, but perhaps from a run that was killed before it looked
        check_digest(path, digest)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("ab") as file:
        _lock(file)
        if file.tell() > size:
            file.truncate(0)
        with progress(size // MEGABYTE, f"{path.name} (MB)", file.tell() // MEGABYTE) as bar:
            failures = 0
            while (before := file.seek(0, os.SEEK_END)) < size:
                try:
                    _receive(url, file, size=size, timeout=timeout, bar=bar)
                except _TryAgainError as error:
                    failures = 0 if file.tell() > before else failures + 1
                    if failures > retries:
                        raise _gave_up(url, error, have=file.tell(), size=size) from None
                    wait = min(2.0**failures, 60.0)
                    _log.info("%s: %s; again in %.0f s", path.name, error, wait)
                    sleep(wait)
        os.fsync(file.fileno())
    check_digest(part, digest)
    part.replace(path)


def check_digest(path: Path, digest: str) -> None:
    """Compare a file with its digest, and delete it if it is another.

    Raises:
        MmcbError: It is another.
    """
    algorithm = _ALGORITHMS[len(digest)]
    _log.info("checking %s of %s", algorithm, path.name.removesuffix(".part"))
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != digest.lower():
        path.unlink()
        raise MmcbError(
            f"{path.name.removesuffix('.part')} is not what it should be and was deleted: its "
            f"{algorithm} is {found}, not {digest.lower()}",
            hint="run the command again; if it happens again, the server or --checksum is wrong",
        )


def _receive(url: str, file: BinaryIO, *, size: int, timeout: float, bar: ProgressBar) -> None:
    """Append what is missing; ends early with `_TryAgainError` when the connection does."""
    start = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            start = _agree(response, file, start=start, size=size, url=url)
            received = 0
            # One byte too many is enough to see that the file is another.
            while block := response.read(min(_BLOCK, size + 1 - start - received)):
                file.write(block)
                before, received = received, received + len(block)
                bar.advance((start + received) // MEGABYTE - (start + before) // MEGABYTE)
    except urllib.error.HTTPError as error:
        if error.code in _FLEETING:
            raise _TryAgainError(f"HTTP {error.code} {error.reason}") from None
        raise MmcbError(
            f"{url}: HTTP {error.code} {error.reason}", hint="look at --base-url"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        file.flush()
        reason = getattr(error, "reason", None) or error
        raise _TryAgainError(f"connection lost ({reason or type(error).__name__})") from None
    file.flush()
    if start + received > size:
        file.truncate(0)
        raise MmcbError(f"{url} is longer than {size} bytes: it is another file than COCO's")
    if start + received < size:
        raise _TryAgainError("connection lost (it ended too early)")


def _agree(
    response: http.client.HTTPResponse, file: BinaryIO, *, start: int, size: int, url: str
) -> int:
    """From which byte on the server sends; a server without ranges sends from the first one."""
    if response.status == 206:
        said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if said is None or int(said[1]) != start:
            raise _TryAgainError("the server sent another part than was asked for")
        total = None if said[2] == "*" else int(said[2])
    else:
        file.truncate(0)
        file.seek(0)
        start = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length)
    if total is not None and total != size:
        raise MmcbError(
            f"{url} has {total} bytes, not {size}: it is another file than COCO's",
            hint="look at --base-url, or get it by hand",
        )
    return start


def _lock(file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MmcbError(f"{file.name}: another process is downloading this file") from None


def _gave_up(url: str, error: Exception, *, have: int, size: int) -> MmcbError:
    return MmcbError(
        f"{url}: {error}; {have / MEGABYTE:.0f} of {size / MEGABYTE:.0f} MB are here",
        hint="run the command again when the network is back: it goes on from there",
    )
