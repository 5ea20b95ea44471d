"""What a run has written and what is left: `attempts.jsonl`, and `curves.jsonl` beside it.

An attempt is the mark that everything it names is on disk, so it is written last.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from mmcb.attacks.results import StepReport
from mmcb.attacks.targets import Label
from mmcb.log import ProgressBar, progress
from mmcb.records import Attempt, Record
from mmcb.store import RecordWriter, existing_ids

SubjectT = TypeVar("SubjectT")


class LossCurve(Record):
    """The losses of every iterate of one attack; its id is the attempt's."""

    behavior_id: str
    model: str
    """`base` or `defended`."""
    steps_per_restart: int = Field(ge=1)
    """Gradient steps of a restart; restart r begins at index r * (steps_per_restart + 1)."""
    losses: tuple[float | None, ...]
    """Mean cross-entropy of the target after 0, 1, 2, ... steps (of the 8-bit picture); None where
    it was not a finite number. Shorter than the budget where the attack stopped early."""


def make_curve(
    id_: str, *, behavior_id: str, model: str, losses: Sequence[float], steps: int
) -> LossCurve:
    """The loss curve of an attempt, or of the one picture behind many."""
    return LossCurve(
        id=id_,
        behavior_id=behavior_id,
        model=model,
        steps_per_restart=steps,
        losses=tuple(round(x, 6) if math.isfinite(x) else None for x in losses),
    )


@dataclass
class Ledger:
    """The files of a run, open for writing.

    Args:
        bar: shows the progress.
        done: ids of the attempts that are written.
        curved: ids of the curves that are written.
        wanted: attacks of the whole run.
        finished: those of them whose attempts are all written.
        attempts: writes the attempts.
        curves: writes the curves.
    """

    bar: ProgressBar
    done: set[str]
    curved: set[str]
    wanted: int
    finished: int
    attempts: RecordWriter
    curves: RecordWriter

    def todo(
        self,
        batches: Iterable[Sequence[SubjectT]],
        labels: Sequence[Label],
        id_of: Callable[[SubjectT, Label], str],
    ) -> Iterator[tuple[Label, list[SubjectT]]]:
        """What is left of each batch, model by model."""
        for batch in batches:
            for label in labels:
                left = [one for one in batch if id_of(one, label) not in self.done]
                if left:
                    yield label, left

    def write(
        self, attempts: Sequence[Attempt], curves: Sequence[LossCurve], *, state: Path
    ) -> None:
        """Add finished attacks, a curve each; the state that they came from is thrown away."""
        self.curves.write(one for one in curves if one.id not in self.curved)
        self.attempts.write(one for one in attempts if one.id not in self.done)
        self.curved.update(one.id for one in curves)
        self.done.update(one.id for one in attempts)
        self.finished += len(curves)
        state.unlink(missing_ok=True)

    def count(self, report: StepReport) -> str:
        """How many attacks are finished."""
        return f"{self.finished + report.finished}/{self.wanted}"


@contextmanager
def open_ledger(
    run: Path, attacks: Sequence[Collection[str]], *, each: int, title: str
) -> Iterator[Ledger]:
    """Open a run's files; once all is written, no saved state is left.

    Args:
        run: the run's folder.
        attacks: the ids of the attempts that each attack is to leave.
        each: evaluations of an attack.
        title: of the progress bar.
    """
    done, curved = (existing_ids(run / name) for name in ("attempts.jsonl", "curves.jsonl"))
    finished = sum(done.issuperset(ids) for ids in attacks)
    with (
        RecordWriter(run / "attempts.jsonl", Attempt) as attempts,
        RecordWriter(run / "curves.jsonl", LossCurve) as curves,
        progress(len(attacks) * each, title, initial=finished * each) as bar,
    ):
        yield Ledger(bar, done, curved, len(attacks), finished, attempts, curves)
    # With it go states that no batch asked for any more, after a change of --batch-size.
    shutil.rmtree(run / "state", ignore_errors=True)
