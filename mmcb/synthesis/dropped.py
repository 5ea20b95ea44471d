"""What could not be made, and why: a record of dropped.jsonl."""

from collections.abc import Sequence
from typing import Literal

from mmcb.records import ImagePath, Record, Split
from mmcb.synthesis.filters import Reason
from mmcb.synthesis.plan import Job

MAX_KEPT_TEXT = 4000
"""Characters of an unusable answer that are kept."""


class Dropped(Record):
    """A line of dropped.jsonl: an example that could not be made, and why."""

    task: Literal["harmful", "benign_howto", "question", "caption", "refusal", "instruction"]
    category: str | None = None
    split: Split
    image: ImagePath | None = None
    source_id: str
    """The caption it was to be made from."""
    reasons: tuple[str, ...]
    """Why each attempt failed, in their order."""
    text: str = ""
    """The last answer, cut to its beginning."""


def dropped_job(job: Job, reasons: Sequence[Reason], text: str) -> Dropped:
    """The record of a job that came to nothing.

    Args:
        job: What was to be written.
        reasons: Why each attempt failed, in their order.
        text: The last answer.
    """
    return Dropped(
        id=job.id,
        task=job.task,
        category=None if job.category is None else job.category.name,
        split=job.split,
        image=job.caption.image if job.with_image else None,
        source_id=job.caption.id,
        reasons=tuple(reasons),
        text=text[:MAX_KEPT_TEXT],
    )
