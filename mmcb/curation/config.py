"""Settings of the filters that written text goes through. No torch: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from mmcb.config import Config, UnitFraction


def _ordered(words: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= words[0] <= words[1]:
        raise ValueError(f"give the least number of words, then the most: {words[0]} {words[1]}")
    return words


WordRange = Annotated[tuple[int, int], AfterValidator(_ordered)]
"""Least and most words, both allowed."""


class OverlapConfig(Config):
    """What must not be in a training set, because a model is measured on it."""

    evaluation_sets: tuple[Path, ...] = ()
    """Files of evaluation prompts (CSV, JSON, JSONL, Parquet, one a line in .txt): text too like
    one of them is dropped."""

    max_bleu: UnitFraction = 0.3
    """The greatest BLEU that a request may have with an evaluation prompt."""

    tool_sets: tuple[Path, ...] = ()
    """The same for evaluation sets of function calls, whose requests are alike by nature."""

    max_tool_bleu: UnitFraction = 0.1
    """The greatest BLEU that a request may have with a prompt of --tool-sets."""

    @property
    def evaluation_files(self) -> dict[str, Path]:
        """All files, by the names that a run's manifest gives them."""
        named = {"evaluation_set": self.evaluation_sets, "tool_set": self.tool_sets}
        return {
            f"{name}_{number}": path
            for name, paths in named.items()
            for number, path in enumerate(paths, start=1)
        }


class FilterConfig(Config):
    """Which of the writer's answers are kept. Every filter's count is in report.json."""

    drop_refused: bool = True
    """Drop an answer in which the writer refuses."""

    drop_ungrounded: bool = True
    """Drop a query that names nothing of the picture's caption."""

    query_words: WordRange | None = (2, 120)
    """Least and most words of a query; None for any number."""

    completion_words: WordRange | None = (1, 800)
    """Least and most words of a completion; None for any number."""

    language: str | None = "en"
    """Drop text that is surely of another language than this one (ISO 639-1); None for any."""

    near_duplicates: Annotated[float, Field(ge=0, le=1)] | None = 0.8
    """Drop a harmful or how-to pair that shares this much of its word triples with an earlier one
    (Jaccard, by MinHash); None to keep all."""

    max_shot_bleu: UnitFraction | None = 0.5
    """The greatest BLEU that a pair (query and completion) may have with a pair of --few-shot: more
    of it is copied; None to keep copies."""

    harm_judge: str | None = None
    """Drop a harmful pair whose completion this judge of mmcb.evaluation does not call harmful;
    None to ask none."""
