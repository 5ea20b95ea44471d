"""A source of training examples as the command line names it: FORMAT:PLACE[@COUNT]. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import tyro
from pydantic import BaseModel, ConfigDict, Field

Format = Literal["mmcb", "upstream", "chat", "xstest", "llava", "alpaca"]
Kind = Literal["circuit_breaker", "retain"]
KINDS: tuple[Kind, Kind] = ("circuit_breaker", "retain")

FORMATS: tuple[Format, ...] = get_args(Format)
RETAIN_ONLY = ("xstest",)
"""Formats that hold answers to harmless requests only."""

FILE_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
HUB_PLACE = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w./-]+))?(?:#([\w.-]+))?")
"""OWNER/NAME[:REVISION][#SPLIT]."""


class HubSet(NamedTuple):
    """A data set of the Hugging Face hub."""

    id: str
    """OWNER/NAME."""
    revision: str | None
    """Branch, tag or commit; None for the newest."""
    split: str
    """Name of the split."""


class Source(BaseModel):
    """Where examples come from, in which format, and how many of them make up the set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Format
    place: str
    """A local file, or a data set of the hub: OWNER/NAME[:REVISION][#SPLIT]."""
    count: int | None = Field(default=None, ge=1)
    """Training examples to draw, repeated where there are fewer; None for each of them once."""

    def __str__(self) -> str:
        """The source as the command line names it."""
        count = "" if self.count is None else f"@{self.count}"
        return f"{self.format}:{self.place}{count}"

    @property
    def hub(self) -> HubSet | None:
        """The data set of the hub that is meant, or None for a file (there, or missing)."""
        match = HUB_PLACE.fullmatch(self.place)
        if match is None or Path(self.place).exists() or self.place.endswith(FILE_SUFFIXES):
            return None
        id_, revision, split = match.groups()
        return HubSet(id_, revision, split or "train")


def parse_source(text: str) -> Source:
    """Read `chat:mine.jsonl@2000`.

    Raises:
        ValueError: it has no format, an unknown one, no place, or no whole number after the `@`.
    """
    format_, colon, rest = text.partition(":")
    if not colon or format_ not in FORMATS:
        raise ValueError(f"{text}: begin with the format, one of {', '.join(FORMATS)}, and a colon")
    place, at, last = rest.rpartition("@")
    count: int | None = None
    if at and re.fullmatch(r"[\d.,%x+-]*", last):  # else it belongs to the file's name
        if not last.isdecimal() or int(last) < 1:
            raise ValueError(f"{text}: after @ stands how many examples to draw, such as @2000")
        rest, count = place, int(last)
    if not rest:
        raise ValueError(f"{text}: names no file and no data set")
    return Source(format=format_, place=rest, count=count)


def read_sources(value: Any, *, kind: Kind) -> Any:
    """Parse what the command line or a file of settings gives for one set.

    Args:
        value: strings, or what `Source` was saved as; anything else is left for pydantic to refuse.
        kind: the set.

    Raises:
        ValueError: a string that is no source, or a format that the set does not take; both name
            the flag.
    """
    flag = flag_of(kind)
    if not isinstance(value, (list, tuple)):
        return value
    sources: list[Any] = []
    for item in value:
        try:
            sources.append(parse_source(item) if isinstance(item, str) else item)
        except ValueError as error:
            raise ValueError(f"{flag} {error}") from None
        found = sources[-1].get("format") if isinstance(item, dict) else sources[-1].format
        if kind == "circuit_breaker" and found in RETAIN_ONLY:
            raise ValueError(f"{flag} takes no {found} (its answers are harmless)")
    return tuple(sources)


def flag_of(kind: Kind) -> str:
    """The flag that names the sources of a set."""
    return f"--{kind.replace('_', '-')}-data"


SourceFlag = Annotated[
    Source,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FORMAT:PLACE[@COUNT]",
        # A string still: pydantic's message says what is wrong, tyro's would only say that it is.
        instance_from_str=lambda args: args[0],
        is_instance=lambda instance: isinstance(instance, (str, Source)),
        str_from_instance=lambda instance: [str(instance)],
    ),
]
"""A source that is read from, and shown as, `chat:mine.jsonl@2000`."""
