"""The `contamination` of a results.json in words. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NO_ADAPTER = "no adapter is measured"


def sentences(contamination: Mapping[str, Any]) -> list[str]:
    """What a reader must know of it: what is flagged, and what was not checked."""
    found = [
        f"The adapter was trained on what it is measured on: {name} ({describe(of)})."
        for name, of in contamination["sets"].items()
        if of["flagged"]
    ]
    if contamination["status"] == "not checked" and contamination["reason"] != NO_ADAPTER:
        found.append(f"Contamination was not checked: {contamination['reason']}.")
    if contamination["status"] == "partly checked":
        found.append(f"Contamination was checked in part: {contamination['reason']}.")
    return found


def describe(found: Mapping[str, Any]) -> str:
    """What was found of a flagged set, in words."""
    if "n" not in found:
        return "its file was trained on"
    parts = [f"{found['exact']} of {found['n']} requests word for word"] if found["exact"] else []
    parts += [f"{found['near']} of {found['n']} nearly so"] if found["near"] else []
    parts += ["its very file"] if found["same_file"] else []
    return ", ".join(parts)
