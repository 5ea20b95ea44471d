"""Generations -> verdicts.jsonl: every judge that has something to say, once each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmcb.evaluation.judges import Judge, Ruling, Sample, judge_version, load_judge, panel_of
from mmcb.log import get_logger, progress
from mmcb.records import Attempt, Behavior, Generation, Task, Verdict
from mmcb.store import RecordWriter, existing_ids, record_id

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """A generation with all that stands behind it."""

    generation: Generation
    attempt: Attempt
    behavior: Behavior | None
    task: Task | None

    @property
    def response(self) -> str:
        """The whole answer: what was put into the model's mouth, then what it said."""
        return self.attempt.prefill + self.generation.text

    @property
    def failed(self) -> bool:
        """No answer was made, for instance because the image cannot be read."""
        return self.generation.finish_reason == "error"

    @property
    def sample(self) -> Sample:
        """What a judge sees of it: the plain request, not the attack's wrapping of it."""
        prompt, context = self.attempt.prompt, None
        if self.behavior is not None:
            prompt, context = self.behavior.prompt, self.behavior.context
        return Sample(prompt=prompt, response=self.response, task=self.task, context=context)


def attack_judges(harm_judges: Sequence[str]) -> list[str]:
    """The judges that speak about an attack: harm and coherence, each judge once."""
    names = [name for judge in harm_judges for name in (judge, panel_of(judge).coherence)]
    return list(dict.fromkeys(names))


def task_judges(harm_judges: Sequence[str]) -> list[str]:
    """The judges that speak about a benign item: correctness, refusal and coherence."""
    panels = [panel_of(judge) for judge in harm_judges]
    names = [name for panel in panels for name in (panel.correct, panel.refusal, panel.coherence)]
    return list(dict.fromkeys(names))


def refusal_judges(harm_judges: Sequence[str]) -> list[str]:
    """The judges that say whether a request was refused."""
    return list(dict.fromkeys(panel_of(judge).refusal for judge in harm_judges))


def judge_missing(
    items: Sequence[Item],
    *,
    verdicts_path: Path,
    harm_judges: Sequence[str],
    make_judge: Callable[[str], Judge] = load_judge,
) -> int:
    """Ask each judge about each item it has not ruled on; the number of new verdicts."""
    with RecordWriter(verdicts_path):
        pass  # cuts off a line that a kill tore
    done = existing_ids(verdicts_path)
    work = _pending(items, harm_judges, done)
    total = sum(len(pending) for pending in work.values())
    if total == 0:
        return 0
    with RecordWriter(verdicts_path, Verdict) as writer, progress(total, "judging") as bar:
        for name, pending in work.items():
            for verdicts in _rule(make_judge(name), name, pending):
                writer.write(verdicts)
                bar.advance(len(verdicts))
    return total


def _pending(
    items: Sequence[Item], harm_judges: Sequence[str], done: set[str]
) -> Mapping[str, list[Item]]:
    judges = {
        "task": task_judges(harm_judges),
        # Whether a plain harmful request is refused is the other half of over-refusal.
        "direct": [*attack_judges(harm_judges), *refusal_judges(harm_judges)],
    }
    others = attack_judges(harm_judges)
    work: dict[str, list[Item]] = {}
    for item in items:
        for name in judges.get(item.attempt.attack, others):
            if verdict_id(item.generation.id, name) not in done:
                work.setdefault(name, []).append(item)
    return work


def verdict_id(generation_id: str, judge: str) -> str:
    """The id of a judge's verdict on a generation, by the rule it has now."""
    return record_id("verdict", generation_id, judge, _version(judge))


@cache
def _version(judge: str) -> str:
    return judge_version(judge)


def _rule(judge: Judge, name: str, items: Sequence[Item]) -> Iterator[list[Verdict]]:
    """Verdicts as the judge gives them: what it said before it fails is kept."""
    failed = [item for item in items if item.failed]
    yield [_verdict(name, item, Ruling(None, reason="no answer")) for item in failed]
    answered = [item for item in items if not item.failed]
    for batch in judge.rule([item.sample for item in answered]):
        yield [_verdict(name, answered[k], ruling) for k, ruling in batch]


def _verdict(name: str, item: Item, ruling: Ruling) -> Verdict:
    return Verdict(
        id=verdict_id(item.generation.id, name),
        generation_id=item.generation.id,
        judge=name,
        label=ruling.label,
        score=ruling.score,
        reason=ruling.reason,
    )
