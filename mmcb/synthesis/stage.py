"""A stage of the writer: jobs worked off in rounds, until enough of what was written survives."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mmcb.curation.near_duplicates import NearDuplicates
from mmcb.log import progress
from mmcb.record_index import RecordIndex
from mmcb.records import Example
from mmcb.store import RecordWriter
from mmcb.synthesis.dropped import MAX_KEPT_TEXT, Dropped
from mmcb.synthesis.files import SetFiles, shuffled
from mmcb.synthesis.plan import Job
from mmcb.synthesis.writer import Desk, Workshop, write_examples

ROUND = 2048
"""Jobs in memory at once: many batches, so that an engine seldom waits for a round's last."""


@dataclass(frozen=True, slots=True)
class WriterStage:
    """Jobs of one task and the file their examples go to.

    A round takes no more jobs than examples are lacking, in the jobs' order, and ends with the
    search for near-duplicates, in the same order. What a round is depends on the rounds before
    alone, so a killed run goes on to the same set. Near-duplicates leave the file when the stage
    is done; until then they stand in dropped.jsonl as well.
    """

    description: str
    path: Path
    files: SetFiles
    jobs: Callable[[], Iterator[Job]]
    """Plans the jobs anew, one at a time."""
    wanted: int | None = None
    """Examples that are to survive; None for as many as there are jobs."""
    distinct: bool = False
    """Whether near-duplicates are dropped."""

    def run(self, workshop: Workshop) -> int:
        """Have written what is lacking; what is on disk stays. Returns how many survive."""
        threshold = workshop.config.near_duplicates
        seen = NearDuplicates(threshold) if self.distinct and threshold is not None else None
        written = RecordIndex(self.path, Example)
        dropped = RecordIndex(self.files.dropped, Dropped)
        rounds = _Rounds(written, dropped, seen)
        total, done = self._count(written, dropped)
        kept = 0
        with (
            RecordWriter(self.path, Example) as examples,
            RecordWriter(self.files.dropped, Dropped) as lost,
            progress(total, self.description, done) as bar,
        ):
            jobs = self.jobs()
            while part := list(islice(jobs, self._size(kept))):
                pending = [job for job in part if job.id not in written and job.id not in dropped]
                if pending:
                    write_examples(pending, Desk(workshop, examples, lost), bar)
                survived = rounds.select(part, lost)
                kept += len(survived)
                if self.wanted is not None:  # the bar counts what survives
                    bar.advance(sum(job.id in survived for job in pending) - len(pending))
        if rounds.lost:
            written.settle(shuffled)
        return kept

    def _size(self, kept: int) -> int:
        return ROUND if self.wanted is None else min(ROUND, self.wanted - kept)

    def _count(
        self, written: RecordIndex[Example], dropped: RecordIndex[Dropped]
    ) -> tuple[int, int]:
        """How much is to be made in all, and how much of it there is."""
        if self.wanted is not None:
            return self.wanted, min(self.wanted, len(written))
        total = done = 0
        for job in self.jobs():
            total += 1
            done += job.id in written or job.id in dropped
        return total, done


class _Rounds:
    """Looks through what the rounds have written."""

    def __init__(
        self,
        written: RecordIndex[Example],
        dropped: RecordIndex[Dropped],
        seen: NearDuplicates | None,
    ) -> None:
        self._written = written
        self._dropped = dropped
        self._seen = seen
        self.lost = 0
        """Near-duplicates that still stand in the file."""

    def select(self, jobs: Sequence[Job], dropped: RecordWriter) -> set[str]:
        """Drop what is like an earlier example; the ids of these jobs' examples that survive."""
        self._written.refresh()
        self._dropped.refresh()
        if self._seen is None:
            return {job.id for job in jobs if job.id in self._written}
        survived, doubles = set(), []
        for job in jobs:
            example = self._written.get(job.id)
            if example is None:
                continue
            if self._seen.add(example.id, _text(example)) is None:
                survived.add(example.id)
                continue
            doubles.append(example)
            self._written.discard(example.id)
        self.lost += len(doubles)
        # Told before, if a kill came between the two files.
        dropped.write(_duplicate(e) for e in doubles if e.id not in self._dropped)
        return survived


def _text(example: Example) -> str:
    return "\n".join(message.content for message in example.messages)


def _duplicate(example: Example) -> Dropped:
    before = str(example.provenance.settings.get("rejected", "")).split()
    return Dropped.model_validate(
        {
            "id": example.id,
            "task": example.task,
            "category": example.category,
            "split": example.split,
            "image": example.image,
            "source_id": str(example.provenance.source_id),
            "reasons": (*before, "duplicate"),
            "text": _text(example)[:MAX_KEPT_TEXT],
        }
    )
