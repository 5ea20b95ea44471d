"""The circuit-breaker set: caption -> harmful query about the picture -> harmful completion."""

from collections.abc import Sequence

from mmcb.records import Caption, Example
from mmcb.synthesis.categories import Taxonomy
from mmcb.synthesis.files import SetFiles
from mmcb.synthesis.plan import harmful_jobs
from mmcb.synthesis.stage import WriterStage


def circuit_breaker_stage(
    captions: Sequence[Caption], files: SetFiles, taxonomy: Taxonomy
) -> WriterStage:
    """The stage that fills circuit_breaker.jsonl with what is not in it yet."""
    return WriterStage(
        "harmful queries",
        files.circuit_breaker,
        files,
        harmful_jobs(captions, files.config, taxonomy),
        wanted=files.config.num_examples,
        distinct=True,
    )


def check_held_out(examples: Sequence[Example], taxonomy: Taxonomy) -> None:
    """Make sure of the split: no held-out category in training, no image on both sides.

    Raises:
        AssertionError: Ours to fix: the plan broke its promise.
    """
    heldout = {category.name for category in taxonomy.heldout}
    shown: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for example in examples:
        if example.split == "train" and example.category in heldout:
            raise AssertionError(f"{example.id}: held-out category {example.category} in training")
        if example.image is not None:
            shown[example.split].add(example.image)
    both = shown["train"] & shown["heldout"]
    if both:
        raise AssertionError(f"{len(both)} images are in both splits, such as {min(both)}")
