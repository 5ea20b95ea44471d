"""The lines that end a run: what the attack reached on each model."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from mmcb.log import get_logger
from mmcb.records import Attempt
from mmcb.store import read_records

_log = get_logger(__name__)


def log_summary(attempts_path: Path, *, num_skipped: int = 0) -> None:
    """Log, per model, the mean losses, how many stopped early, and the largest PNG difference."""
    attempts = list(read_records(attempts_path, Attempt))
    for label in ("base", "defended"):
        own = [attempt.measures for attempt in attempts if attempt.model == label]
        if not own:
            continue
        stopped = sum(measures["stopped_step"] >= 0 for measures in own)
        _log.info(
            "%s: %d images, loss %s -> %s (saved PNG %s, off by at most %.2g), "
            "%d reached the stopping loss, %.0f passes each",
            label,
            len(own),
            _mean(own, "loss_start"),
            _mean(own, "loss_float"),
            _mean(own, "loss_png"),
            max((_difference(measures) for measures in own), default=0.0),
            stopped,
            fmean(measures["passes"] for measures in own),
        )
    if num_skipped:
        _log.warning("%d images skipped; manifest.json names them", num_skipped)
    _log.info("wrote %s", attempts_path)


def _mean(measures: list[dict[str, float]], name: str) -> str:
    values = [each[name] for each in measures if name in each]
    return f"{fmean(values):.3f}" if values else "not finite"


def _difference(measures: dict[str, float]) -> float:
    if "loss_float" not in measures or "loss_png" not in measures:
        return 0.0
    return abs(measures["loss_png"] - measures["loss_float"])
