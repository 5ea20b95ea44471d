"""Logging and progress, on stderr, from rank 0 only.

Nothing is set up at import: a command calls `setup_logging()` once; modules ask for a logger.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Often enough to see that work goes on, seldom enough for a log file of a day's run.
PLAIN_LINE_SECONDS = 5.0
HANDLER_NAME = "mmcb"


def is_main_process() -> bool:
    """Whether this process is the one that speaks and writes (rank 0, or not distributed)."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) in ("", "0")


@cache
def console() -> Console:
    """The one console: log lines and progress share it, so that neither overwrites the other."""
    return Console(stderr=True, quiet=not is_main_process())


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; pass `__name__`."""
    # `python -m mmcb.demo` calls the module __main__, whose logger nobody listens to.
    logger = logging.getLogger("mmcb" if name == "__main__" else name)
    logger.addFilter(_is_heard)  # here, and not in `setup_logging`, which a library's user skips
    return logger


def _is_heard(record: logging.LogRecord) -> bool:
    """Whether a record is the main process's to tell, or grave enough for any to tell."""
    return is_main_process() or record.levelno >= logging.ERROR


def setup_logging(*, level: int = logging.INFO) -> None:
    """Send mmcb's own log to stderr. The root logger and other libraries' are left alone."""
    logger = logging.getLogger("mmcb")
    logger.setLevel(level)
    # By name: a host program, or a test runner, may have put handlers of its own here.
    if any(handler.name == HANDLER_NAME for handler in logger.handlers):
        return
    handler: logging.Handler
    if console().is_terminal:
        handler = RichHandler(console=console(), show_path=False, markup=False, show_level=False)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    handler.name = HANDLER_NAME
    logger.addHandler(handler)
    logger.propagate = False


class ProgressBar(Protocol):
    """What `progress` yields."""

    def advance(self, n: int = 1, **fields: object) -> None:
        """Count `n` more done; `fields` (loss=..., skipped=...) are shown beside the count."""


@contextmanager
def progress(total: int | None, description: str, initial: int = 0) -> Iterator[ProgressBar]:
    """Show how far a long job is, with its rate and the time left.

    Args:
        total: How many items there are in all, or None if unknown.
        description: What is being done, in a word or two.
        initial: How many were done by an earlier run; they do not count towards the rate.
    """
    if not console().is_terminal:
        plain = _PlainProgress(total=total, description=description, initial=initial)
        try:
            yield plain
        finally:
            plain.print_line()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    with Progress(*columns, console=console()) as bars:
        task = bars.add_task(description, total=total, completed=initial, detail="")
        yield _RichProgress(bars, task)


class _RichProgress:
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, n: int = 1, **fields: object) -> None:
        if fields:
            self._bars.update(self._task, advance=n, detail=_format_fields(fields))
        else:
            self._bars.update(self._task, advance=n)


class _PlainProgress:
    """One line every few seconds, for log files and pipes."""

    def __init__(self, *, total: int | None, description: str, initial: int) -> None:
        self._total = total
        self._description = description
        self._initial = initial
        self._done = initial
        self._fields: dict[str, object] = {}
        self._started = self._last_line = time.monotonic()

    def advance(self, n: int = 1, **fields: object) -> None:
        self._done += n
        self._fields.update(fields)
        if time.monotonic() - self._last_line >= PLAIN_LINE_SECONDS:
            self.print_line()

    def print_line(self) -> None:
        now = self._last_line = time.monotonic()
        seconds = now - self._started
        rate = (self._done - self._initial) / seconds if seconds > 0 else 0.0
        parts = [f"{self._done}" if self._total is None else f"{self._done}/{self._total}"]
        if rate > 0:
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
            if self._total is not None and self._total > self._done:
                parts.append(f"{format_seconds((self._total - self._done) / rate)} left")
        if self._fields:
            parts.append(_format_fields(self._fields))
        if is_main_process():
            # soft_wrap: a log file's reader decides where lines end, not the console's width.
            line = f"{self._description}: {', '.join(parts)}"
            console().print(line, markup=False, highlight=False, soft_wrap=True)


def format_seconds(seconds: float) -> str:
    """Write a duration as people do: 45 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _format_fields(fields: dict[str, object]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in fields.items()
    )
