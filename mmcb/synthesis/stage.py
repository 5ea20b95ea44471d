"""A stage of the writer: jobs worked off in rounds, until enough of what was written survives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmcb.curation.near_duplicates import NearDuplicates
from mmcb.log import progress
from mmcb.records import Example
from mmcb.store import RecordWriter, existing_ids, read_records, replace_records
from mmcb.synthesis.dropped import MAX_KEPT_TEXT, Dropped
from mmcb.synthesis.files import SetFiles
from mmcb.synthesis.plan import Job
from mmcb.synthesis.writer import Desk, Workshop, write_examples


@dataclass(frozen=True, slots=True)
class WriterStage:
    """Jobs of one task and the file their examples go to.

    A round takes as many jobs as examples are lacking, in the jobs' order, and ends with the search
    for near-duplicates, in the same order. What a round is depends on the rounds before alone, so a
    killed run goes on to the same set.
    """

    description: str
    path: Path
    files: SetFiles
    jobs: Sequence[Job]
    wanted: int | None = None
    """Examples that are to survive; None for as many as there are jobs."""
    distinct: bool = False
    """Whether near-duplicates are dropped."""

    def run(self, workshop: Workshop) -> int:
        """Have written what is lacking; what is on disk stays. Returns how many survive."""
        threshold = workshop.config.near_duplicates
        seen = NearDuplicates(threshold) if self.distinct and threshold is not None else None
        start = kept = 0
        while start < len(self.jobs) and (self.wanted is None or kept < self.wanted):
            lacking = len(self.jobs) if self.wanted is None else self.wanted - kept
            part = self.jobs[start : start + lacking]
            self._write(part, workshop)
            kept += self._select(part, seen)
            start += len(part)
        return kept

    def _write(self, jobs: Sequence[Job], workshop: Workshop) -> None:
        done = self.files.done(self.path)
        pending = [job for job in jobs if job.id not in done]
        if not pending:
            return
        with (
            RecordWriter(self.path, Example) as examples,
            RecordWriter(self.files.dropped, Dropped) as dropped,
            progress(len(jobs), self.description, len(jobs) - len(pending)) as bar,
        ):
            write_examples(pending, Desk(workshop, examples, dropped), bar)

    def _select(self, jobs: Sequence[Job], seen: NearDuplicates | None) -> int:
        """Drop what is like an earlier example; returns how many of these jobs survive."""
        if seen is None:
            written = existing_ids(self.path)
            return sum(job.id in written for job in jobs)
        records = list(read_records(self.path, Example))
        by_id = {record.id: record for record in records}
        mine = [by_id[job.id] for job in jobs if job.id in by_id]
        doubles = {e.id: e for e in mine if seen.add(e.id, _text(e)) is not None}
        if doubles:
            told = existing_ids(self.files.dropped)  # a kill between the two files
            with RecordWriter(self.files.dropped, Dropped) as dropped:
                dropped.write(_duplicate(e) for e in doubles.values() if e.id not in told)
            replace_records(self.path, [record for record in records if record.id not in doubles])
        return len(mine) - len(doubles)


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
