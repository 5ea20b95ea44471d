"""The files of a synthesis folder."""

from dataclasses import dataclass
from pathlib import Path

from mmcb.record_index import RecordIndex
from mmcb.records import Example
from mmcb.store import RecordFile, RecordWriter, record_id, replace_records
from mmcb.synthesis.config import SynthesisConfig
from mmcb.synthesis.dropped import Dropped


@dataclass(frozen=True, slots=True)
class Done:
    """What needs no more work, looked up on disk."""

    written: RecordIndex[Example]
    dropped: RecordIndex[Dropped]

    def __contains__(self, id_: str) -> bool:
        return id_ in self.written or id_ in self.dropped


def shuffled(id_: str) -> str:
    """What the records of finished files are sorted by."""
    return record_id("order", id_)


@dataclass(frozen=True, slots=True)
class SetFiles:
    """Where a folder's records stand. Image paths in all of them are relative to the folder."""

    config: SynthesisConfig
    folder: Path

    @property
    def captions(self) -> Path:
        """What the images show (`Caption`)."""
        return self.folder / "captions.jsonl"

    @property
    def circuit_breaker(self) -> Path:
        """Harmful queries and completions (`Example`)."""
        return self.folder / "circuit_breaker.jsonl"

    @property
    def retain(self) -> Path:
        """What the model must keep doing (`Example`)."""
        return self.folder / "retain.jsonl"

    @property
    def dropped(self) -> Path:
        """What could not be made (`Dropped`)."""
        return self.folder / "dropped.jsonl"

    @property
    def examples(self) -> RecordFile[Example]:
        """The records of the circuit-breaker set."""
        return RecordFile(self.circuit_breaker, Example)

    @property
    def retained(self) -> RecordFile[Example]:
        """The records of the retain set."""
        return RecordFile(self.retain, Example)

    @property
    def all_dropped(self) -> RecordFile[Dropped]:
        """The records of what could not be made."""
        return RecordFile(self.dropped, Dropped)

    def prepare(self) -> None:
        """Make the files, cut off what a kill tore, and give back what may now be tried again."""
        for path, type_ in self._types():
            with RecordWriter(path, type_):
                pass
        # More retries are allowed than when these were dropped.
        if any(self._may_retry(each) for each in self.all_dropped):
            kept = (each for each in self.all_dropped if not self._may_retry(each))
            replace_records(self.dropped, kept)

    def done(self, path: Path) -> Done:
        """Ids that need no more work: written to this file, or dropped."""
        return Done(RecordIndex(path, Example), RecordIndex(self.dropped, Dropped))

    def settle(self) -> None:
        """Put each file into the order of its ids' hashes: every part of it is a fair sample.

        A set made in one go and one made over ten kills are then the same file, byte for byte. And
        `datasets` infers types from the first megabytes alone, so these must show every task.
        """
        for path, type_ in self._types():
            RecordIndex(path, type_).settle(shuffled)

    def _types(self) -> list[tuple[Path, type[Example] | type[Dropped]]]:
        return [(self.circuit_breaker, Example), (self.retain, Example), (self.dropped, Dropped)]

    def _may_retry(self, dropped: Dropped) -> bool:
        written = dropped.task in ("harmful", "benign_howto", "question")
        settled = dropped.reasons[-1] == "duplicate"  # it was written, and is like another
        return written and not settled and len(dropped.reasons) <= self.config.max_retries
