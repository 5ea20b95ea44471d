"""A stage of the writer: which jobs are left, and working them off."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmcb.generation.protocol import TextGenerator
from mmcb.log import progress
from mmcb.records import Example
from mmcb.store import RecordWriter
from mmcb.synthesis.files import SetFiles
from mmcb.synthesis.plan import Job
from mmcb.synthesis.templates import Prompt, PromptKind
from mmcb.synthesis.writer import Desk, Dropped, write_examples


@dataclass(frozen=True, slots=True)
class WriterStage:
    """Jobs of one task and the file their examples go to."""

    description: str
    path: Path
    files: SetFiles
    jobs: Sequence[Job]

    def pending(self) -> list[Job]:
        """The jobs that are neither written nor dropped."""
        done = self.files.done(self.path)
        return [job for job in self.jobs if job.id not in done]

    def run(self, generator: TextGenerator, prompts: dict[PromptKind, Prompt]) -> None:
        """Have the pending jobs written; what is on disk stays."""
        pending = self.pending()
        with (
            RecordWriter(self.path, Example) as examples,
            RecordWriter(self.files.dropped, Dropped) as dropped,
            progress(len(self.jobs), self.description, len(self.jobs) - len(pending)) as bar,
        ):
            desk = Desk(self.files.config, generator, prompts, examples, dropped)
            write_examples(pending, desk, bar)
