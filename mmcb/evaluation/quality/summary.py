"""Grades -> the numbers of results.json, and the table for a terminal. Pure: records in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mmcb.evaluation.bootstrap import ratio_of_sums
from mmcb.evaluation.contamination.sentences import sentences
from mmcb.evaluation.quality.answers import Answer
from mmcb.evaluation.quality.grading import Grade

Graded = Mapping[str, Sequence[Grade]]
"""The readable grades of each question."""


def summarize(
    answers: Sequence[Answer], grades: Mapping[str, Grade], *, seed: int
) -> dict[str, Any]:
    """Each role's scores, and how far the adapter changes them on the same questions."""
    roles = list(dict.fromkeys(answer.role for answer in answers))
    by_role = {role: [a for a in answers if a.role == role] for role in roles}
    results: dict[str, Any] = {
        "version": 1,
        "questions": len({answer.question.id for answer in answers}),
        "models": {role: _role(of, grades, seed) for role, of in by_role.items()},
    }
    if len(roles) == 2:
        before, after = (_graded(of, grades) for of in by_role.values())
        results["change"] = _change(before, after, seed)
    return results


def _graded(answers: Iterable[Answer], grades: Mapping[str, Grade]) -> Graded:
    found: dict[str, list[Grade]] = {}
    for answer in answers:
        grade = grades.get(answer.generation.id)
        if grade is not None and grade.score is not None:
            found.setdefault(answer.question.id, []).append(grade)
    return found


def _role(answers: Sequence[Answer], grades: Mapping[str, Grade], seed: int) -> dict[str, Any]:
    turns = sorted({answer.turn for answer in answers})
    categories = dict.fromkeys(answer.question.category for answer in answers)
    asked = [answer for answer in answers if not answer.failed]
    return {
        **_scores(_graded(answers, grades), seed),
        "turns": {
            str(turn + 1): _scores(_graded([a for a in answers if a.turn == turn], grades), seed)
            for turn in turns
        },
        "categories": {
            name: _scores(
                _graded([a for a in answers if a.question.category == name], grades), seed
            )
            for name in categories
        },
        "answers": len(answers),
        "no_answer": len(answers) - len(asked),
        "cut_at_max_new_tokens": sum(a.generation.finish_reason == "length" for a in answers),
        "unreadable": sum(grades[a.generation.id].score is None for a in asked),
    }


def _scores(graded: Graded, seed: int) -> dict[str, Any]:
    """The mean score; where references are graded beside, also theirs, and the ratio of both."""
    sums = [sum(grade.score or 0.0 for grade in of) for of in graded.values()]
    counts = [float(len(of)) for of in graded.values()]
    found = {"score": ratio_of_sums(sums, counts, seed=seed).as_dict()}
    if any(grade.reference_score is not None for of in graded.values() for grade in of):
        beside = [sum(grade.reference_score or 0.0 for grade in of) for of in graded.values()]
        found["reference_score"] = ratio_of_sums(beside, counts, seed=seed).as_dict()
        found["relative"] = ratio_of_sums(sums, beside, seed=seed).as_dict()
    return found


def _change(before: Graded, after: Graded, seed: int) -> dict[str, Any]:
    """Mean change of a question's mean score, over questions that both models have a grade of."""
    both = [name for name in before if name in after]
    changes = [_mean(after[name]) - _mean(before[name]) for name in both]
    return dict(ratio_of_sums(changes, [1.0] * len(both), seed=seed).as_dict())


def _mean(grades: Sequence[Grade]) -> float:
    return sum(grade.score or 0.0 for grade in grades) / len(grades)


def headline(results: Mapping[str, Any]) -> str:
    """The mean grade before and after, in a line."""
    scores = [model["score"]["value"] for model in results["models"].values()]
    shown = ["-" if score is None else f"{score:.2f}" for score in scores]
    return f"{results['benchmark']} {' -> '.join(shown)}"


def print_summary(results: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print each role's scores, by turn and category, and what is in no mean."""
    models = results["models"]
    judge = results["settings"]["judge"]
    table = Table(title=f"{results['benchmark']} (judge: {judge}, 95 % bootstrap intervals)")
    table.add_column("", no_wrap=True)
    for role in models:
        table.add_column(role, justify="right", no_wrap=True)
    for title, rows in _rows(models).items():
        table.add_row(title, *(_shown(row) for row in rows))
    if "change" in results:
        table.add_section()
        table.add_row("change", *[""] * (len(models) - 1), _shown(results["change"], sign="+"))
    table.add_section()
    for key in ("no_answer", "cut_at_max_new_tokens", "unreadable"):
        table.add_row(key.replace("_", " "), *(str(model[key]) for model in models.values()))
    console = console or Console()
    console.print(table)
    for sentence in sentences(results["contamination"]):
        console.print(sentence, markup=False)


def _rows(models: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    first = next(iter(models.values()))
    rows = {"score, 1 to 10": [model["score"] for model in models.values()]}
    if "relative" in first:
        rows["relative to the reference"] = [model["relative"] for model in models.values()]
    for group in ("turns", "categories"):
        if len(first[group]) > 1:
            for name in first[group]:
                title = f"  turn {name}" if group == "turns" else f"  {name}"
                rows[title] = [model[group][name]["score"] for model in models.values()]
    return rows


def _shown(found: Mapping[str, Any], *, sign: str = "") -> str:
    if found["value"] is None:
        return "-"
    low, high = (format(found[key], f"{sign}.2f") for key in ("low", "high"))
    # Rich reads square brackets as markup unless the first is escaped.
    return f"{found['value']:{sign}.2f} \\[{low}, {high}] n={found['n']}"
