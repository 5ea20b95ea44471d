"""The lines that end a run: what the attack reached on each model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from mmcb.log import get_logger
from mmcb.records import Attempt
from mmcb.store import read_records

_SAVED = ("loss_png", "loss_text")
"""The loss of what was saved, measured as anyone would who is given it."""

_log = get_logger(__name__)


def log_summary(attempts_path: Path) -> None:
    """Log, per model, mean losses, how many targets are reached, and what it took."""
    attempts = list(read_records(attempts_path, Attempt))
    for label in ("base", "defended"):
        own = [attempt.measures for attempt in attempts if attempt.model == label]
        if own:
            _log.info(
                "%s: %d attempts, loss %s -> %s%s, %d write the whole target, %.0f passes each",
                label,
                len(own),
                _mean(own, "loss_start"),
                _mean(own, "loss_float"),
                _saved(own),
                sum(measures.get("target_reached") == 1.0 for measures in own),
                fmean(measures["passes"] for measures in own),
            )
    _log.info("wrote %s", attempts_path)


def _mean(measures: Sequence[dict[str, float]], name: str) -> str:
    values = [each[name] for each in measures if name in each]
    return f"{fmean(values):.3f}" if values else "not finite"


def _saved(measures: Sequence[dict[str, float]]) -> str:
    """How far the loss of what was saved is from the optimised one."""
    off = [
        abs(each[name] - each["loss_float"])
        for each in measures
        for name in _SAVED
        if name in each and "loss_float" in each
    ]
    return f" (what was saved is off by at most {max(off):.2g})" if off else ""
