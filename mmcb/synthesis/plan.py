"""What is to be written for each caption, decided by hashes alone: no order, no state, no luck.

A caption's split, its share in each task and whether its image is shown depend on the seed and on
the caption itself, so a set can be grown or resumed and nothing that was decided changes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mmcb.records import Caption, Split
from mmcb.store import record_id
from mmcb.synthesis.categories import Category, Taxonomy, even_category
from mmcb.synthesis.config import SynthesisConfig

WriterTask = Literal["harmful", "benign_howto", "question"]


@dataclass(frozen=True, slots=True)
class Job:
    """One example that the writer is to write."""

    id: str
    """The example's id; with the attempt it also seeds the sampling."""
    task: WriterTask
    caption: Caption
    split: Split
    with_image: bool
    """False for a text-only example: the query stands without the picture."""
    category: Category | None = None
    """The harm category, for harmful queries."""


def share(*parts: str | int) -> float:
    """A fixed number in [0, 1) for these words: the same on every machine, in every order."""
    return int(record_id(*parts), 16) / 2**64


def split_of(caption: Caption, config: SynthesisConfig) -> Split:
    """The side of the split that an image's records are on, all of them."""
    # The number rather than the path: COCO's 2014 and 2017 folders hold the same photographs.
    image = caption.image if caption.image_id is None else caption.image_id
    return "heldout" if share(config.seed, "split", image) < config.heldout_fraction else "train"


def harmful_jobs(
    captions: Iterable[Caption], config: SynthesisConfig, taxonomy: Taxonomy
) -> Iterator[Job]:
    """The queries of the circuit-breaker set.

    Training images get the training categories, held-out images all categories, evenly on each
    side: so no image and no held-out category is on both.
    """
    count = {"train": 0, "heldout": 0}
    for caption in captions:
        split = split_of(caption, config)
        choices = taxonomy.train if split == "train" else taxonomy.categories
        for number in range(config.queries_per_caption):
            category = even_category(choices, count[split], seed=config.seed, salt=split)
            count[split] += 1
            id_ = record_id("harmful", caption.id, number)
            yield Job(id_, "harmful", caption, split, _shows(id_, config), category)


def benign_jobs(captions: Iterable[Caption], config: SynthesisConfig) -> Iterator[Job]:
    """The benign how-to twins of the retain set, with and without image."""
    for id_, caption in _chosen(captions, "benign_howto", config.benign_fraction, config):
        yield Job(id_, "benign_howto", caption, split_of(caption, config), _shows(id_, config))


def question_jobs(captions: Iterable[Caption], config: SynthesisConfig) -> Iterator[Job]:
    """The questions of the retain set: about the image, so always with it."""
    for id_, caption in _chosen(captions, "question", config.question_fraction, config):
        yield Job(id_, "question", caption, split_of(caption, config), with_image=True)


def caption_choices(
    captions: Iterable[Caption], config: SynthesisConfig
) -> Iterator[tuple[str, Caption]]:
    """The captions that become retain examples, each with the example's id."""
    return _chosen(captions, "caption", config.caption_fraction, config)


def _chosen(
    captions: Iterable[Caption], task: str, fraction: float, config: SynthesisConfig
) -> Iterator[tuple[str, Caption]]:
    named = ((record_id(task, caption.id), caption) for caption in captions)
    return ((id_, c) for id_, c in named if share(config.seed, "chosen", id_) < fraction)


def _shows(id_: str, config: SynthesisConfig) -> bool:
    return share(config.seed, "image", id_) >= config.text_fraction
