"""Settings of `python -m mmcb.evaluation.quality`. Imports no torch: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mmcb.config import Config
from mmcb.generation.config import EngineConfig, EngineFlags

QualityBenchmark = Literal["mt-bench", "llava-bench"]


class QualityConfig(Config):
    """Answer MT-Bench or LLaVA-Bench before and after the defence, and have a judge grade it."""

    benchmark: QualityBenchmark
    """mt-bench: 80 questions of two turns, each answer graded from 1 to 10. llava-bench: questions
    about pictures, each answer graded beside the reference."""

    questions: Path
    """Its questions: mt-bench's question.jsonl; llava-bench's qa90_questions.jsonl (COCO) or
    questions.jsonl (in the wild)."""

    references: Path
    """Its reference answers: mt-bench's reference_answer/gpt-4.jsonl; llava-bench's
    qa90_gpt4_answer.jsonl or answers_gpt4.jsonl."""

    context: Path | None = None
    """llava-bench: what the judge reads instead of the picture: caps_boxes_coco2014_val_80.jsonl
    or context.jsonl."""

    images: Path | None = None
    """llava-bench: folder of its pictures."""

    judge: str
    """Model that grades: a family's name, a hub id, a folder, or a server's name for it."""

    judge_engine: EngineConfig = EngineConfig()
    """What runs the judge."""

    template: Path | None = None
    """The judge's prompt (jinja2) instead of the published one. It may use turns (each with
    question and answer), references, context and boxes."""

    judge_max_new_tokens: int = Field(default=1024, ge=1)
    """Longest judgement, in tokens."""

    model: str = "tiny-llava-next"
    """Model to evaluate: a family's name, a hub id or a folder with a checkpoint."""

    adapter: str = "newest"
    """Adapter of the defended model: a folder, "newest" (the newest finished training run of
    this model) or "none" (the base model alone)."""

    limit: int | None = Field(default=None, ge=1)
    """Only the first so many questions: for a quick look, not for a result."""

    max_new_tokens: int = Field(default=1024, ge=1)
    """Longest answer, in tokens."""

    temperature: float = Field(default=0.0, ge=0.0)
    """Sampling temperature of the answers; 0 takes the likeliest token. The judge is greedy."""

    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus sampling: the share of probability to sample from."""

    seed: int = 0
    """Seed of the sampling and of the intervals."""

    batch_size: int = Field(default=32, ge=1)
    """Requests answered at once; halved by itself when the memory does not do."""

    engine: EngineFlags = EngineConfig()
    """What generates the answers."""

    out: Path | None = None
    """Folder of the results; runs/quality/<benchmark>-<model> by default. The same folder again
    resumes: only what is missing is answered and graded."""
