"""The prompts in a file of whatever make: evaluation sets to keep out, questions to be answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.sources.rows import Row, read_rows

COLUMNS = (
    "prompt",
    "Behavior",
    "behavior",
    "Goal",
    "goal",
    "forbidden_prompt",
    "user_prompt",
    "question",
    "Question",
    "Changed Question",
    "query",
    "instruction",
    "text",
    "messages",
    "conversations",
)
"""Where known sets keep the request, the first of them that a record has: mmcb's own behaviors and
tasks, HarmBench, JailbreakBench, StrongREJECT, MM-SafetyBench, XSTest, BFCL, chats."""

_USERS = ("user", "human")


def read_prompts(path: Path, *, keep: Callable[[Row], bool] | None = None) -> Iterator[str]:
    """The request of every record of a file: of CSV, JSON, JSONL, Parquet, or a line of .txt.

    Args:
        path: The file.
        keep: Says which records are wanted; None for all.

    Raises:
        MmcbError: The file cannot be read, or a record has none of the known columns.
    """
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MmcbError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        yield from (line.strip() for line in lines if line.strip())
        return
    for row in filter(keep, read_rows(path)) if keep else read_rows(path):
        column = next((name for name in COLUMNS if row.values.get(name)), None)
        if column is None:
            raise row.problem(
                f"has no prompt: none of the columns {', '.join(COLUMNS)}"
                f" (there is {', '.join(map(str, row.values)) or 'nothing'})"
            )
        yield from _texts(row.values[column], row)


def _texts(value: Any, row: Row) -> Iterator[str]:
    """The text itself, or what the user says in a conversation, however it is nested."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, row)
    elif isinstance(value, Mapping):
        if value.get("role", value.get("from", "user")) in _USERS:
            yield from _texts(value.get("content", value.get("value", "")), row)
    else:
        raise row.problem(f"the prompt is {type(value).__name__}, not text")
