"""What an adapter was trained on, read again from the files that its run names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmcb.curation.near_duplicates import NearDuplicates
from mmcb.errors import MmcbError
from mmcb.run_folder import read_manifest
from mmcb.sources.reading import open_source, read_row
from mmcb.sources.source import Kind, Source, parse_source
from mmcb.store import file_hash, resolve_image

NEAR = 0.8
"""Jaccard index of word triples from which two requests are alike, as in synthesis' filter."""


def normal(text: str) -> str:
    """A text's words, case and punctuation aside."""
    return " ".join(re.findall(r"\w+", text.lower()))


@dataclass(slots=True)
class TrainingData:
    """Every request that the adapter was trained on, and what of it cannot be read any more."""

    requests: dict[str, int] = field(default_factory=dict)
    """How many requests each source holds."""
    unread: dict[str, str] = field(default_factory=dict)
    """Sources that cannot be read, each with the reason."""
    file_hashes: frozenset[str] = frozenset()
    """SHA-256 of the files, also of those that are gone."""
    _pictures: dict[str, set[Path | None]] = field(default_factory=dict)
    """Of each normalised request, the pictures it was asked about; None: about none."""
    _group: dict[str, str] = field(default_factory=dict)
    """Of each normalised request the one before it that it is like, or itself."""
    _group_pictures: dict[str, set[Path | None]] = field(default_factory=dict)
    _near: NearDuplicates = field(default_factory=lambda: NearDuplicates(NEAR))

    def add(self, text: str, picture: Path | None) -> None:
        """Remember a request."""
        words = normal(text)
        if not words:
            return
        if words not in self._group:
            self._group[words] = self._near.add(words, words) or words
        self._pictures.setdefault(words, set()).add(picture)
        self._group_pictures.setdefault(self._group[words], set()).add(picture)

    def like(self, text: str) -> tuple[bool, set[Path | None]] | None:
        """(is it the same text, the pictures it was asked about) of a request like this, or None.

        The same text goes before one that is like it.
        """
        words = normal(text)
        if words in self._pictures:
            return True, self._pictures[words]
        other = self._near.find(words) if words else None
        return None if other is None else (False, self._group_pictures[other])


def read_training_data(run: Path) -> TrainingData:
    """The requests of both sets of a training run, held-out examples aside.

    Of a source from which only some examples were drawn, all count. What is missing, has changed
    since, or lies on the hub is not read and said to be so.

    Raises:
        MmcbError: the folder is no run's.
    """
    manifest = read_manifest(run)
    hashes = {
        str(entry["path"]): str(entry["sha256"]) for entry in manifest.get("inputs", {}).values()
    }
    data = TrainingData(file_hashes=frozenset(hashes.values()))
    for name, kind in _sources(manifest, hashes):
        try:
            source = parse_source(name)
            _check_unchanged(source, hashes)
            data.requests[name] = _read(data, source, kind, manifest["config"])
        except (MmcbError, ValueError) as error:
            data.unread[name] = str(error)
    return data


def _sources(manifest: Mapping[str, Any], hashes: Iterable[str]) -> Iterator[tuple[str, Kind]]:
    """The run's sources as the command line names them."""
    if "sources" in manifest:
        yield from ((str(part["source"]), part["kind"]) for part in manifest["sources"])
        return
    # Runs from before sources were noted read mmcb's own files alone.
    for path in hashes:
        yield f"mmcb:{path}", "retain" if "retain" in Path(path).name else "circuit_breaker"


def _check_unchanged(source: Source, hashes: Mapping[str, str]) -> None:
    if source.hub is not None:
        raise MmcbError("lies on the hub, and is not read again")
    path = Path(source.place)
    if not path.is_file():
        raise MmcbError("is not there any more")
    known = hashes.get(str(path))
    if known is not None and file_hash(path) != known:
        raise MmcbError("has changed since the training")


def _read(data: TrainingData, source: Source, kind: Kind, config: Mapping[str, Any]) -> int:
    folder = config.get("image_folder")
    rows, reading = open_source(
        source, kind=kind, image_folder=None if folder is None else Path(folder)
    )
    count = 0
    for row in rows:
        example = read_row(source, row, reading)
        if example is None or example.split != "train":
            continue
        image = example.image
        picture = None if image is None else resolve_image(reading.file, image)
        for message in example.prompt_messages:
            if message.role == "user":
                data.add(message.content, picture)
                count += 1
    return count
