"""Settings of `python -m mmcb.synthesis`. No torch: `--help` answers at once."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from mmcb.coco.config import ImagesConfig
from mmcb.config import UnitFraction
from mmcb.curation.config import FilterConfig, OverlapConfig
from mmcb.generation.config import EngineConfig, EngineFlags
from mmcb.models.families import FAMILIES

TINY_WRITER = "tiny-mistral"
"""The writer that ships with mmcb; it writes about the miniature world's invented words."""


class WritingConfig(ImagesConfig):
    """What is written, from which images, by whom."""

    model: str = "llava-next"
    """The model to defend: captions the images, and refuses for the retain set."""

    writer: str = "cognitivecomputations/dolphin-2.8-mistral-7b-v02"
    """Uncensored language model that writes queries and completions."""

    caption_prompt: str = Field(default="Describe this image in detail.", min_length=1)
    """What the model is asked about each image, and the prompt of the retain set's captions."""

    caption_max_new_tokens: int = Field(default=256, ge=1)
    """Longest caption, in tokens."""

    num_examples: int | None = Field(default=None, ge=1)
    """Circuit-breaker examples to end with, train and held out, after all filters (default: one for
    each query that was planned and survived)."""

    taxonomy: str | None = None
    """Harm categories: `default`, `miniature`, or a JSON file (default: what suits the writer)."""

    prompts: str | None = None
    """Prompt templates: `default`, `miniature`, or a folder with harmful.j2, benign.j2, question.j2
    (default: the taxonomy's)."""

    few_shot: Path | None = None
    """File of pairs to show the writer before each request: task, caption, query, completion, and
    for a harmful one the category. None ship with mmcb."""

    queries_per_caption: int = Field(default=1, ge=1)
    """Harmful queries to write for each caption; categories are spread evenly over them."""

    text_fraction: UnitFraction = 0.3
    """Share of harmful, benign and refused queries without their image, so that text-only models
    train on the same sets."""

    heldout_fraction: UnitFraction = 0.1
    """Share of the images whose records are all held out; held-out categories are written for these
    images alone."""

    benign_fraction: UnitFraction = 1.0
    """Share of the captions that get a benign how-to twin of the harmful query (retain set)."""

    caption_fraction: UnitFraction = 1.0
    """Share of the captions that become caption examples (retain set)."""

    question_fraction: UnitFraction = 1.0
    """Share of the captions that get a question with its answer (retain set)."""

    refusal_fraction: UnitFraction = 0.5
    """Share of the harmful queries put to --model, to keep its refusals (retain set)."""

    instructions: Path | None = None
    """JSONL of further retain examples, copied as they are (default: instructions.jsonl in the COCO
    folder, where there is one)."""

    max_retries: int = Field(default=3, ge=0)
    """How often a refused or unusable answer of the writer is asked for again, with a new seed."""

    temperature: float = Field(default=0.8, gt=0)
    """The writer's sampling temperature."""

    top_p: float = Field(default=0.95, gt=0, le=1)
    """The writer's nucleus: the likeliest tokens whose probabilities add up to this."""

    max_new_tokens: int = Field(default=512, ge=1)
    """Longest answer of the writer, in tokens."""

    refusal_max_new_tokens: int = Field(default=128, ge=1)
    """Longest answer of --model to a harmful query, in tokens."""

    batch_size: int = Field(default=16, ge=1)
    """Texts written at once."""

    parquet: bool = False
    """Write the sets as Parquet too, with the images in it."""

    gallery: bool = True
    """Write static pages to review the sets by eye."""

    engine: EngineFlags = EngineConfig()
    """What runs the models."""

    @property
    def taxonomy_name(self) -> str:
        """The taxonomy: as given, or the one that the writer knows."""
        if self.taxonomy is not None:
            return self.taxonomy
        return "miniature" if _ships(self.writer) else "default"

    @property
    def instructions_file(self) -> Path | None:
        """The file of further retain examples, if any."""
        beside = self.coco_root / "instructions.jsonl"
        return self.instructions or (beside if beside.is_file() else None)


class SynthesisConfig(OverlapConfig, FilterConfig, WritingConfig):
    """Make the circuit-breaker set and the retain set from the images of a COCO folder."""

    # Three parts, and flat flags: pydantic takes the fields of the last base first.


_RESUMABLE = (
    "coco_root source splits num_images licenses captions_per_image caption_prompt"
    " caption_max_new_tokens benign_fraction caption_fraction question_fraction"
    " refusal_fraction text_fraction num_examples parquet gallery max_retries"
    " refusal_max_new_tokens batch_size engine out instructions"
)
RESUMABLE = frozenset(_RESUMABLE.split())
"""Settings that may change when a folder's work is taken up again: none of them decides on which
side of the split a record lies, or who wrote it. (Captioning checks that it is the same images.)"""


def preset(model: str) -> SynthesisConfig:
    """The settings that suit a model: the shipped ones have a shipped writer and short texts."""
    family = FAMILIES.get(model)
    source: Literal["model", "coco"] = "model"
    if family is not None and family.kind == "llm":
        source = "coco"  # it cannot see, so it cannot caption
    if not _ships(model):
        return SynthesisConfig(model=model, source=source)
    return SynthesisConfig(
        model=model,
        writer=TINY_WRITER,
        source=source,
        caption_max_new_tokens=64,
        max_new_tokens=128,
        refusal_max_new_tokens=48,
        batch_size=32,
        # The miniature's language is no natural one, and has one sentence for each harm and thing:
        # what differs between two such examples is the picture.
        language=None,
        near_duplicates=None,
        max_shot_bleu=None,
    )


def _ships(model: str) -> bool:
    family = FAMILIES.get(model)
    return family is not None and family.local_path is not None
