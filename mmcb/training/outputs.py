"""What a run leaves for people to read: its report, and a card beside every set of weights."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from mmcb.errors import MmcbError
from mmcb.training.card import write_card
from mmcb.training.facts import read_facts
from mmcb.training.report import write_report


def write_outputs(run: Path) -> None:
    """Write report.html, adapter/README.md and merged/README.md from the run's files.

    Args:
        run: the run's folder. What it does not hold (yet) gets no card.
    """
    facts = read_facts(run)
    write_report(facts)
    for name in ("adapter", "merged"):
        if (run / name).is_dir():
            write_card(facts, run / name, merged=name == "merged")


class OutputsAtEnd:
    """A context that writes the outputs when a run has ended, or has failed with a sentence.

    Entered before the run's own context, so that the manifest already says how the run ended. After
    Ctrl-C nothing is drawn: whoever stops a run wants it to stop.
    """

    def __init__(self, run: Path) -> None:
        self._run = run

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if (exc is None or isinstance(exc, MmcbError)) and (self._run / "metrics.jsonl").is_file():
            write_outputs(self._run)
