"""Stages of a suite in this process, one after the other, or several at once in their own.

No attack needs another's results. A process of its own writes what it says into a file: several
progress bars in one terminal tell nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmcb.errors import MmcbError
from mmcb.log import format_seconds, get_logger, setup_logging
from mmcb.suite.stages import Stage

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Seconds:
    """What a stage took, by the clock and of the processor."""

    wall: float
    cpu: float


Note = Callable[[str, Seconds], None]
"""Told each stage's name and what it took, also when it was cut short."""


def run_stages(stages: Sequence[Stage], *, jobs: int, logs: Path, note: Note) -> None:
    """Run stages.

    Args:
        stages: what to run.
        jobs: how many at once; 1: in this process.
        logs: folder for what the processes say, a file a stage.
        note: is told what each one took.

    Raises:
        MmcbError: what a stage raised; stages that run at the same time are finished first.
    """
    if jobs == 1 or len(stages) < 2:
        for number, stage in enumerate(stages, start=1):
            _log.info("== %d/%d %s", number, len(stages), stage.name)
            timed(stage.name, partial(stage.command.run, stage.config), note)
        return
    logs.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or jobs) // jobs)
    _log.info("%d attacks, %d at once; what they say is in %s", len(stages), jobs, logs)
    # Spawned, not forked: torch's threads and a GPU's context do not survive a fork.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        waiting = {
            pool.submit(_apart, stage, threads, logs / f"{stage.name}.txt"): stage
            for stage in stages
        }
        try:
            for number, done in enumerate(as_completed(waiting), start=1):
                name, took = waiting[done].name, done.result()
                note(name, took)
                told = (number, len(stages), name, format_seconds(took.wall))
                _log.info("== %d/%d %s: %s", *told)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def timed(name: str, work: Callable[[], object], note: Note) -> None:
    """Do it, and tell what it took."""
    wall, cpu = time.monotonic(), time.process_time()
    try:
        work()
    finally:
        note(name, Seconds(time.monotonic() - wall, time.process_time() - cpu))


def _apart(stage: Stage, threads: int, log: Path) -> Seconds:
    """Run one stage in this process, which is its own."""
    with log.open("a", encoding="utf-8", buffering=1) as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    setup_logging()
    import torch

    torch.set_num_threads(threads)
    found: list[Seconds] = []
    try:
        work = partial(stage.command.run, stage.config)
        timed(stage.name, work, lambda _, took: found.append(took))
    except MmcbError as error:
        # The file alone would have it.
        raise MmcbError(f"{stage.name}: {error.message}", hint=error.hint) from None
    return found[0]
