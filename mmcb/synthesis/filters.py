"""The filters on one written pair: each a rule, a reason, and a switch in the settings.

Two more look at more than one pair or ask a model: near-duplicates (`stage.py`) and the judge
(`writer.py`).
"""

from dataclasses import dataclass
from typing import Literal

from mmcb.curation.config import FilterConfig, WordRange
from mmcb.curation.grounding import is_grounded
from mmcb.curation.language import is_foreign
from mmcb.curation.overlap import Decontamination, PromptIndex
from mmcb.refusals import is_refusal
from mmcb.synthesis.parsing import Pair

Reason = Literal[
    "failed",
    "unparsable",
    "empty",
    "refused",
    "length",
    "ungrounded",
    "language",
    "copied",
    "overlap",
    "harmless",
    "duplicate",
    "complied",
    "cut",
]
"""failed: the model gave no text. unparsable, empty, refused: what the writer gave. length: too few
or too many words. ungrounded: the query names nothing of the caption. language: another one.
copied: too like a pair of --few-shot. overlap: too like an evaluation prompt. harmless: the judge
says so. duplicate: too like an earlier pair. complied: the target did not refuse. cut: it ends at
its limit."""

Grounds = Literal["query", "pair", "nothing"]
"""Where a word of the caption must stand: in the query, in the query or its completion, nowhere."""


@dataclass(frozen=True, slots=True)
class PairFilters:
    """What a pair has to pass by itself."""

    config: FilterConfig
    decontamination: Decontamination
    shown: PromptIndex | None = None
    """The pairs that the writer was shown, as `pair_text` has them."""

    def fault(
        self, pair: Pair | None, *, answer: str, caption: str, grounds: Grounds
    ) -> Reason | None:
        """Why a writer's answer cannot be used, or None.

        Args:
            pair: The query and completion in it, if any were found.
            answer: All that the writer wrote.
            caption: What the picture shows.
            grounds: Where something of the caption must be named.
        """
        config = self.config
        if pair is None:
            return "refused" if is_refusal(answer) else "unparsable"
        if not pair.query or not pair.completion:
            return "empty"
        if config.drop_refused and (is_refusal(pair.completion) or is_refusal(pair.query)):
            return "refused"
        if not (
            _fits(pair.query, config.query_words)
            and _fits(pair.completion, config.completion_words)
        ):
            return "length"
        if config.drop_ungrounded and not _names_something(pair, caption, grounds):
            return "ungrounded"
        if config.language is not None and is_foreign(
            f"{pair.query} {pair.completion}", config.language
        ):
            return "language"
        if self.shown is not None and self.shown.overlap(pair_text(pair)):
            return "copied"
        return "overlap" if self.decontamination.overlap(pair.query) else None


def pair_text(pair: Pair) -> str:
    """A pair as one text: a query that is worded like another, but answered anew, is no copy."""
    return f"{pair.query}\n{pair.completion}"


def _fits(text: str, words: WordRange | None) -> bool:
    return words is None or words[0] <= len(text.split()) <= words[1]


def _names_something(pair: Pair, caption: str, grounds: Grounds) -> bool:
    text = pair.query if grounds == "query" else f"{pair.query} {pair.completion}"
    return grounds == "nothing" or is_grounded(text, caption)
