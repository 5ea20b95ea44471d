"""Metrics mirrored to TensorBoard, W&B or trackio, through accelerate's trackers.

metrics.jsonl stays the record. A tracker gets the same rows under the same names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcb.errors import MmcbError
from mmcb.run_folder import read_manifest
from mmcb.store import record_id
from mmcb.training.config import Tracker
from mmcb.training.recipes import read_recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

PROJECT = "mmcb"
"""Project of W&B and trackio; folder of TensorBoard's files in the run's."""

Log = Callable[[Mapping[str, Any]], None]


def check_trackers(names: Sequence[Tracker]) -> None:
    """Make sure that every tracker's package is there, before anything else takes time.

    Raises:
        MmcbError: one is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MmcbError(
                f"--report-to {name}: the package {name} is not installed",
                hint=f"pip install {name}, or all three: pip install 'mmcb[trackers]'",
            )


@contextmanager
def tracking(accelerator: Accelerator, names: Sequence[Tracker], *, run: Path) -> Iterator[Log]:
    """Start the trackers and yield what logs a row of metrics to them; without any, nothing does.

    A run that goes on after a kill goes on in the same W&B or trackio run: its id is made from the
    folder and the time at which it was first started.

    Args:
        accelerator: of the run; only its main process logs.
        names: what to mirror to.
        run: the run's folder; its recipe is shown beside the curves.

    Raises:
        MmcbError: a tracker does not start.
    """
    if not names or not accelerator.is_main_process:
        yield lambda row: None
        return
    from accelerate.tracking import filter_trackers

    check_trackers(names)
    accelerator.project_configuration.set_directories(str(run))
    accelerator.log_with = filter_trackers(list(names), str(run))
    try:
        accelerator.init_trackers(PROJECT, config=_settings(run), init_kwargs=_init_kwargs(run))
    except Exception as error:  # each tracker has errors of its own
        raise MmcbError(
            f"--report-to {' '.join(names)} does not start: {error}",
            hint="log in to the tracker, or leave the flag out: metrics.jsonl has every number",
        ) from error
    try:
        yield lambda row: accelerator.log(_numbers(row), step=int(row["step"]))
    finally:
        # Not end_training: it would also take the process group down, which the run still needs.
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers = []


def _init_kwargs(run: Path) -> dict[str, dict[str, Any]]:
    id_ = record_id(run.name, str(read_manifest(run)["started"]))
    return {
        "wandb": {"name": run.name, "id": id_, "resume": "allow", "dir": str(run)},
        "trackio": {"name": f"{run.name}-{id_[:6]}", "resume": "allow"},
    }


def _settings(run: Path) -> dict[str, bool | int | float | str]:
    """Model, seed and recipe, as TensorBoard takes them: numbers, switches and text."""
    config = read_manifest(run)["config"]
    recipe = read_recipe(run / "recipe.json").model_dump(mode="json")
    plain = (bool, int, float, str)
    values = {"model": config["model"], "seed": config["seed"], **recipe}
    return {name: v if isinstance(v, plain) else str(v) for name, v in values.items()}


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in row.items() if k != "step" and isinstance(v, int | float)}
