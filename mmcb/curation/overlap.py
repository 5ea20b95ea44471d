"""Overlap with evaluation sets by BLEU, as the paper decontaminates its training data.

Source: Zou et al. 2024, App. A.1 and A.3: text above BLEU 0.3 with HarmBench is dropped, function
calls above 0.1. BLEU is sacrebleu's, of one sentence, lower case, with effective order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from mmcb.curation.config import OverlapConfig
from mmcb.curation.prompts import read_prompts
from mmcb.errors import MmcbError

_ORDER = 4


@dataclass(frozen=True, slots=True)
class Hit:
    """The evaluation prompt that a text is most like."""

    file: str
    bleu: float
    """In [0, 1]."""


class PromptIndex:
    """Evaluation prompts, with the greatest BLEU that a text may have with any of them.

    Args:
        prompts: (name of the file, prompt).
        threshold: in [0, 1]; more is too much.
    """

    def __init__(self, prompts: Iterable[tuple[str, str]], *, threshold: float) -> None:
        self._threshold = threshold
        self._tokenize = Tokenizer13a()
        # Tokenised once, by sacrebleu's own tokenizer, not for each of a million pairs.
        self._bleu = BLEU(effective_order=True, tokenize="none")
        self._names: list[str] = []
        self._counts: list[Counter[str]] = []
        self._texts: list[str] = []
        self._with_word: dict[str, list[int]] = {}
        for name, prompt in prompts:
            self._insert(name, prompt)

    def __len__(self) -> int:
        return len(self._texts)

    def overlap(self, text: str) -> Hit | None:
        """The worst overlap above the threshold, or None."""
        tokens = self._tokens(text)
        shared = Counter[int]()
        for word, count in Counter(tokens).items():
            for number in self._with_word.get(word, ()):
                shared[number] += min(count, self._counts[number][word])
        least = self._least_shared(len(tokens))
        worst: Hit | None = None
        for number, matches in shared.items():
            if matches < least:
                continue
            score = self._bleu.sentence_score(" ".join(tokens), [self._texts[number]]).score / 100
            if score > self._threshold and (worst is None or score > worst.bleu):
                worst = Hit(self._names[number], score)
        return worst

    def _insert(self, name: str, prompt: str) -> None:
        tokens = self._tokens(prompt)
        if not tokens:
            return
        number = len(self._texts)
        self._names.append(name)
        self._texts.append(" ".join(tokens))
        self._counts.append(Counter(tokens))
        for word in self._counts[-1]:
            self._with_word.setdefault(word, []).append(number)

    def _tokens(self, text: str) -> list[str]:
        return str(self._tokenize(text.lower())).split()

    def _least_shared(self, length: int) -> int:
        """Words that a text must share with a prompt, or no BLEU above the threshold is possible.

        Every run of n words that is shared takes n - 1 words that are: precision n is at most
        (m - n + 1) / (length - n + 1) for m shared words; where that is 0, sacrebleu's smoothing
        gives the k-th such order 1 / (2^k (length - n + 1)).
        """
        for matches in range(1, length + 1):
            if _bound(matches, length) > self._threshold:
                return matches
        return length + 1


def _bound(matches: int, length: int) -> float:
    """The greatest BLEU of a text of `length` words, `matches` of which are shared."""
    product, missed = 1.0, 0
    order = min(_ORDER, length)
    for n in range(1, order + 1):
        total = length - n + 1
        if matches >= n:
            product *= (matches - n + 1) / total
        else:
            missed += 1
            product *= 1 / (2**missed * total)
    return float(product ** (1 / order))


class Decontamination:
    """The evaluation sets of a run, and what is too like them.

    Args:
        config: the files and their thresholds.

    Raises:
        MmcbError: a file cannot be read, or holds no prompt.
    """

    def __init__(self, config: OverlapConfig) -> None:
        self._indices = [
            PromptIndex(_prompts(files), threshold=threshold)
            for files, threshold in (
                (config.evaluation_sets, config.max_bleu),
                (config.tool_sets, config.max_tool_bleu),
            )
            if files
        ]

    def overlap(self, text: str) -> Hit | None:
        """The first set that the text is too like, or None."""
        return next((hit for index in self._indices if (hit := index.overlap(text))), None)


def _prompts(files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for path in files:
        prompts = read_prompts(path)
        first = next(prompts, None)
        if first is None:
            raise MmcbError(f"{path}: holds no prompt to keep out", hint="leave it out")
        yield from ((path.name, prompt) for prompt in chain([first], prompts))
