"""The report's word on contamination: what was trained on, and what could not be checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcb.evaluation.contamination.sentences import describe, sentences


def warnings(results: Mapping[str, Any]) -> list[str]:
    """What stands on top of the page; nothing for the results of an older evaluation."""
    found: Mapping[str, Any] | None = results.get("contamination")
    return [] if found is None else sentences(found)


def rows(results: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """Each set that was compared: its name, how many items it has, what was found."""
    sets: Mapping[str, Any] = results.get("contamination", {}).get("sets", {})
    return [
        (name, of["n"], describe(of) if of["flagged"] else "none found")
        for name, of in sets.items()
        if "n" in of
    ]
