"""The circuit-breaker set: caption -> harmful query about the picture -> harmful completion."""

from collections.abc import Iterable
from functools import partial

from mmcb.record_index import temporary_database
from mmcb.records import Caption, Example
from mmcb.synthesis.categories import Taxonomy
from mmcb.synthesis.files import SetFiles
from mmcb.synthesis.plan import harmful_jobs
from mmcb.synthesis.stage import WriterStage


def circuit_breaker_stage(
    captions: Iterable[Caption], files: SetFiles, taxonomy: Taxonomy
) -> WriterStage:
    """The stage that fills circuit_breaker.jsonl with what is not in it yet."""
    return WriterStage(
        "harmful queries",
        files.circuit_breaker,
        files,
        partial(harmful_jobs, captions, files.config, taxonomy),
        wanted=files.config.num_examples,
        distinct=True,
    )


def check_held_out(examples: Iterable[Example], taxonomy: Taxonomy) -> None:
    """Make sure of the split: no held-out category in training, no image on both sides.

    Raises:
        AssertionError: Ours to fix: the plan broke its promise.
    """
    heldout = {category.name for category in taxonomy.heldout}
    database = temporary_database()
    database.execute("CREATE TABLE shown (image TEXT PRIMARY KEY, split TEXT) WITHOUT ROWID")
    for example in examples:
        if example.split == "train" and example.category in heldout:
            raise AssertionError(f"{example.id}: held-out category {example.category} in training")
        if example.image is None:
            continue
        database.execute(
            "INSERT OR IGNORE INTO shown VALUES (?, ?)", (example.image, example.split)
        )
        (split,) = database.execute(
            "SELECT split FROM shown WHERE image = ?", (example.image,)
        ).fetchone()
        if split != example.split:
            raise AssertionError(f"{example.image} is in both splits")
