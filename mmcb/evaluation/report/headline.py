"""The sentence on top of a page: what the strongest attack reached, and what the defence cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcb.evaluation.by_run import SPLITS
from mmcb.evaluation.capability import CAPABILITY_TASKS
from mmcb.evaluation.comparison import Column, Rate
from mmcb.evaluation.report.words import percent
from mmcb.evaluation.rows import ASR_NAMES, CAPABILITY_NAMES

_STRONGEST_FIRST = (
    *(
        "image_hijack",
        "image_hijack_heldout",
        "embedding",
        "gcg",
        "steering",
        "prefill",
        "multi_turn",
        "trigger",
    ),
    *("static", "translated", "direct"),
)


def headline(columns: Sequence[Column]) -> str:
    """The sentence on top: what the strongest attack reached, and what the defence cost."""
    attack = _strongest(columns)
    if attack is None:
        return "No attack was measured."
    if [column.role for column in columns] != ["base", "defended"]:
        return f"{_side_by_side(attack, columns)}."
    base, defended = columns
    rates = [percent(rate) for rate in _rates(attack, columns).values()]
    if found := _strongest_run(base.evaluation.results.get("runs", {})):
        sentence = found
    elif len(rates) == 2:
        sentence = (
            f"The {_attack(attack)} succeeds on {rates[0]} of behaviors before rerouting and on "
            f"{rates[1]} after it{_heldout(attack, columns)}"
        )
    else:
        sentence = _side_by_side(attack, columns)
    return "; ".join(part for part in (sentence, _kept(base, defended)) if part) + "."


def strongest(columns: Sequence[Column]) -> str:
    """The same in a few words: `image hijack: base 100 %, defended 2.1 %`."""
    attack = _strongest(columns)
    if attack is None:
        return ""
    parts = []
    for key in (attack, f"{attack}_heldout"):
        rates = _rates(key, columns)
        words = ", ".join(f"{label} {percent(rate)}" for label, rate in rates.items())
        parts += [f"{_attack(key)}: {words}"] if rates else []
    return "; ".join(parts)


def _rates(attack: str, columns: Sequence[Column]) -> dict[str, Rate]:
    """By label, of the models that the attack was put to."""
    judge = columns[0].evaluation.judges[0]
    rates = {column.label: column.asr(judge, attack) for column in columns}
    return {label: rate for label, rate in rates.items() if rate["n"]}


def _strongest(columns: Sequence[Column]) -> str | None:
    """The strongest attack on a defended model, or on any where none is."""
    defended = [column for column in columns if column.role != "base"]
    for group in (defended, columns):
        for key in _STRONGEST_FIRST:
            if group and _rates(key, group):
                return key
    return None


def _strongest_run(runs: Mapping[str, Any]) -> str:
    """Of several attacks, some of which succeed, the one that succeeds most on the defended."""
    rates = {
        (name, split): run[split]["defended"]["value"] or 0.0
        for name, run in runs.items()
        for split in SPLITS
        if {"base", "defended"} <= run[split].keys()
    }
    worst = max(rates, key=lambda key: rates[key], default=None)
    if worst is None or rates[worst] == 0:
        return ""
    name, split = worst
    base, defended = (percent(runs[name][split][role]) for role in ("base", "defended"))
    where = "harms trained on" if split == "train" else "harms never trained on"
    return (
        f"The strongest of {len(runs)} attacks, {ASR_NAMES.get(name, name)}, succeeds on {base} "
        f"of {where} before rerouting and on {defended} after it "
        f"(n\u00a0=\u00a0{runs[name][split]['defended']['n']})"
    )


def _side_by_side(attack: str, columns: Sequence[Column]) -> str:
    rates = _rates(attack, columns)
    if len(columns) == 1:
        return f"The {_attack(attack)} succeeds on {percent(*rates.values())} of behaviors"
    words = _and([f"{percent(rate)} ({label})" for label, rate in rates.items()])
    return f"The {_attack(attack)} succeeds on {words} of behaviors{_heldout(attack, columns)}"


def _heldout(attack: str, columns: Sequence[Column]) -> str:
    rates = _rates(f"{attack}_heldout", columns)
    if not rates:
        return ""
    return f" (in categories never trained on: {_and([percent(r) for r in rates.values()])})"


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def _attack(key: str) -> str:
    return ASR_NAMES[key] if key != "image_hijack" else "image hijack"


def _kept(base: Column, defended: Column) -> str:
    pairs = {task: (base.capability(task), defended.capability(task)) for task in CAPABILITY_TASKS}
    changes = {
        task: after["value"] - before["value"]
        for task, (before, after) in pairs.items()
        if before["n"] and after["n"]
    }
    if not changes:
        return ""
    worst = min(changes, key=lambda task: changes[task])
    if changes[worst] >= 0:
        return "no benign capability got worse"
    before, after = pairs[worst]
    change = f"({percent(before)} to {percent(after)})"
    return f"the benign capability that lost most is {CAPABILITY_NAMES[worst]} {change}"
