"""A source opened: its rows, and the reader that makes examples of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from mmcb.records import Example
from mmcb.sources.alpaca import read_alpaca
from mmcb.sources.chat import read_chat
from mmcb.sources.hub import load_hub
from mmcb.sources.jsonl import read_mmcb
from mmcb.sources.llava_instruct import read_llava
from mmcb.sources.rows import Reading, Row, read_rows
from mmcb.sources.source import Format, Kind, Source
from mmcb.sources.upstream import read_upstream
from mmcb.sources.xstest import read_xstest


class Reader(Protocol):
    """Makes an example of a row, or None of one that the format leaves out."""

    def __call__(self, row: Row, reading: Reading, /) -> Example | None:
        """Read one row."""


READERS: Mapping[Format, Reader] = {
    "mmcb": read_mmcb,
    "upstream": read_upstream,
    "chat": read_chat,
    "alpaca": read_alpaca,
    "xstest": read_xstest,
    "llava": read_llava,
}


def open_source(
    source: Source, *, kind: Kind, image_folder: Path | None
) -> tuple[Iterator[Row], Reading]:
    """The rows of a source, and what its reader has to know.

    Args:
        source: what the command line names.
        kind: the set that the examples are for.
        image_folder: where images lie; None for the file's own folder.

    Raises:
        MmcbError: the file or data set cannot be read.
    """
    # mmcb's own records say themselves where their images are.
    folder = None if source.format == "mmcb" else image_folder
    hub = source.hub
    if hub is None:
        path = Path(source.place)
        return read_rows(path), Reading(kind, path.name, None, path, folder)
    rows, revision = load_hub(hub)
    file = Path() if image_folder is None else image_folder / "records"
    return rows, Reading(kind, hub.id, revision, file, image_folder)


def read_row(source: Source, row: Row, reading: Reading) -> Example | None:
    """The example in a row, or None of one that the format leaves out.

    Raises:
        MmcbError: the row is not of the source's format.
    """
    return READERS[source.format](row, reading)
