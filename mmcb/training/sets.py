"""Which sources each set is read from: mmcb's own folder, or what the command line names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmcb.errors import MmcbError
from mmcb.sources.source import KINDS, Kind, Source, flag_of
from mmcb.training.config import TrainingConfig
from mmcb.training.examples import FILES, find_data

Sets = Mapping[Kind, Sequence[Source]]
"""For each set what it is read from: mmcb's own file, or what the command line names."""


def find_sets(config: TrainingConfig) -> Sets:
    """What each set is to be read from.

    Raises:
        MmcbError: a file that is not there, or `--data` beside sources for both sets.
    """
    sets: dict[Kind, Sequence[Source]] = {
        "circuit_breaker": config.circuit_breaker_data,
        "retain": config.retain_data,
    }
    for kind, sources in sets.items():
        for source in sources:
            if source.hub is None and not Path(source.place).is_file():
                raise MmcbError(
                    f"{flag_of(kind)} {source}: no such file, and no data set's id (OWNER/NAME)"
                )
    open_ = {kind: name for kind, name in zip(KINDS, FILES, strict=True) if not sets[kind]}
    if open_:
        folder = find_data(config.data, names=tuple(open_.values()))
        own = {k: (Source(format="mmcb", place=str(folder / name)),) for k, name in open_.items()}
        return {**sets, **own}
    if config.data is not None:
        raise MmcbError(
            f"--data {config.data} would not be read: both sets have sources of their own",
            hint=f"leave it out, or add mmcb:{config.data / FILES[1]} to --retain-data",
        )
    return sets


def input_files(sets: Sets) -> dict[str, Path]:
    """The local files of both sets, by the name that the manifest gives them."""
    files: dict[str, Path] = {}
    for kind, sources in sets.items():
        for number, source in enumerate(sources, start=1):
            if source.hub is None:
                name = kind if len(sources) == 1 else f"{kind}_{number}"
                files[name] = Path(source.place)
    return files


def describe(sets: Sets) -> dict[str, str]:
    """The sources of each set in words."""
    return {kind: " ".join(map(str, sources)) for kind, sources in sets.items()}
