"""Data sets of the Hugging Face hub, or of the cache of what was once loaded from there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mmcb.errors import MmcbError
from mmcb.sources.rows import Row, row_of
from mmcb.sources.source import HubSet

COMMIT = re.compile(r"[/@]([0-9a-f]{40})(?=/|$)")


def load_hub(hub: HubSet) -> tuple[Iterator[Row], str | None]:
    """Rows of a data set, and the commit it was loaded from where `datasets` says so.

    Raises:
        MmcbError: it is unknown, cannot be reached, or has no such split.
    """
    import datasets

    name = f"{hub.id}#{hub.split}"
    try:
        data = datasets.load_dataset(hub.id, split=hub.split, revision=hub.revision)
    except Exception as error:  # what is raised depends on the network, the cache and the version
        why = " ".join(str(error).split()) or type(error).__name__
        raise MmcbError(
            f"{hub.id}: no such file here, and no data set that can be loaded: {why}",
            hint="check the name, or download the file and give its path",
        ) from None
    rows = (row_of(f"{name}[{number}]", values) for number, values in enumerate(data))
    return rows, _commit(data) or hub.revision


def _commit(data: Any) -> str | None:
    """The commit in the addresses that were read, or in the path of the cache."""
    addresses = [*(getattr(data.info, "download_checksums", None) or {})]
    addresses += [str(file["filename"]) for file in data.cache_files]
    for address in addresses:
        match = COMMIT.search(address)
        if match is not None:
            return match[1]
    return None
