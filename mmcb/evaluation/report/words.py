"""The sentences of the report, made from its numbers, and how numbers are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcb.evaluation.comparison import Column, Rate, measured_attacks
from mmcb.evaluation.differences import show_setting
from mmcb.evaluation.rows import ASR_NAMES, attack_title

TEXT_SECTIONS = {
    "embedding": ("Input embeddings", 3),
    "gcg": ("Token search (GCG)", 3),
    "steering": ("Steered activations", 3),
    "multi_turn": ("Several turns", 3),
    "static": ("Static test cases", 3),
    "translated": ("Translated request", 3),
    "trigger": ("Trigger phrase", 3),
    "prefill": ("Prefilled answer", 3),
    "direct": ("Direct request", 2),
    "caption": ("Caption", 2),
    "vqa": ("Question about the picture", 2),
    "fact": ("Fact", 2),
    "benign_howto": ("Benign how-to", 2),
    "over_refusal": ("Harmless, but looks harmful", 2),
}
"""Attacks and tasks that get examples in words: title and how many."""


def percent(rate: Rate) -> str:
    """`93.3 %`, without decimals where there are none; a dash where nothing was measured."""
    if rate["value"] is None:
        return "-"
    return f"{100 * rate['value']:.1f}".removesuffix(".0") + "\u00a0%"


def interval(rate: Rate) -> str:
    """`81.4 to 98.2`: the 95 % interval in percent."""
    if rate["value"] is None:
        return "not measured"
    low, high = (f"{100 * rate[key]:.1f}".removesuffix(".0") for key in ("low", "high"))
    return f"{low} to {high}"


def amount(rate: Rate, scale: str) -> str:
    """A share in percent, any other number as it is."""
    if scale == "share" or rate["value"] is None:
        return percent(rate)
    return f"{rate['value']:.2f}"


def spread(rate: Rate, scale: str) -> str:
    """The interval of such a number; nothing where it has none."""
    if rate["low"] is None:
        return ""
    if scale == "share" or rate["value"] is None:
        return interval(rate)
    return f"{rate['low']:.2f} to {rate['high']:.2f}"


def figure(value: float | None) -> str:
    """A number of the paper's as it prints it; a dash where it gives none."""
    return "-" if value is None else f"{value:g}" if value % 1 else f"{value:.1f}"


def perplexity(value: float) -> str:
    """A perplexity, as exact as it means anything."""
    if value < 100:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 1000 else "over 1000"


def judges(columns: Sequence[Column], names: Sequence[str]) -> list[str]:
    """How the judges differ, in words: what the phrase judge makes of a broken model."""
    first = next((name for name in names if name != "phrase"), None)
    if first is None or "phrase" not in names:
        return []
    sentences = [
        "The phrase judge counts every answer without a refusal phrase as a success. A model that "
        "rerouting has broken on harmful requests does not refuse, it stops making sense: to this "
        "judge that looks like a jailbreak."
    ]
    for column in columns:
        key = _most_misleading(column, first)
        if key is not None:
            sentences.append(
                f"On the {column.label} model it calls {percent(column.asr('phrase', key))} of the "
                f"{ASR_NAMES[key]} answers successful; judged by what they say, "
                f"{percent(column.asr(first, key))} are, and "
                f"{percent(column.coherent(first, key))} are coherent."
            )
    if len(sentences) == 1:
        sentences.append("In this evaluation both judges agree to within ten points.")
    return sentences


def _most_misleading(column: Column, first: str) -> str | None:
    gaps = {}
    for key in measured_attacks([column], first):
        phrase, exact = column.asr("phrase", key), column.asr(first, key)
        if phrase["n"] and exact["n"]:
            gaps[key] = phrase["value"] - exact["value"]
    worst = max(gaps, key=lambda key: gaps[key], default=None)
    return worst if worst is not None and gaps[worst] > 0.1 else None


def transfer(results: Mapping[str, Any]) -> str:
    """Whether images made against the base model work on the defended one."""
    rates = results["transfer"].get("defended", {})
    parts = [
        f"{percent(rate)} ({interval(rate)}, n = {rate['n']}) of the "
        f"{'held-out' if 'heldout' in key else 'trained'} categories"
        for key, rate in rates.items()
        if key.startswith("image_hijack") and rate["n"]
    ]
    if not parts:
        return ""
    return (
        "Images optimised against the base model and shown to the defended one succeed on "
        + " and ".join(parts)
        + ". Were that more than the attack on the defended model itself reaches, its gradients "
        "would be masked."
    )


def warnings(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    git = results["settings"].get("git") or {}
    if git.get("dirty"):
        found.append("Made from a working tree with uncommitted changes.")
    if not git.get("commit"):
        found.append("Made from source without a commit.")
    for role, counts in results["counts"].items():
        if counts["no_answer"]:
            found.append(f"{role}: {counts['no_answer']} attempts got no answer and are left out.")
        if counts["unparsable_verdicts"]:
            found.append(
                f"{role}: {counts['unparsable_verdicts']} verdicts could not be read and are left "
                "out."
            )
    adapter = results["settings"]["adapter"]
    others = [
        other
        for other in results["settings"]["attack"]["adapters"]
        if adapter is not None and Path(other).resolve() != Path(adapter).resolve()
    ]
    if others:
        found.append(f"The attacks on the defended model were made for {', '.join(others)}.")
    found += [
        f"The attack in {run} is not finished: its rates are those of its attempts so far."
        for run in results["settings"]["attack"].get("unfinished", ())
    ]
    for reason, count in results["settings"].get("skipped", {}).items():
        found.append(f"Left out: {count} {reason}.")
    return found


def settings(results: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of names and values: everything the numbers depend on."""
    facts = results["settings"]
    training = results.get("training") or {}
    decoding = [(key.replace("_", " "), str(value)) for key, value in facts["decoding"].items()]
    model = [("model", facts["model"]), ("adapter", facts["adapter"] or "none")]
    model += [(f"weights, {role}", value) for role, value in facts["weights"].items()]
    files = [
        (name.replace("_", " "), path) for name, path in (facts.get("files") or {}).items() if path
    ]
    groups = [
        ("Model", model),
        *([("Files", files)] if files else []),
        ("Decoding", [("engine", facts["engine"]), *decoding]),
        ("Judges", [("harm, first is the headline's", ", ".join(facts["judges"]))]),
    ]
    for attack, by_role in (facts["attack"].get("settings") or {}).items():
        for role, values in by_role.items():
            if values:
                groups.append((f"{_title(attack_title(attack))}, {role}", _shown(values)))
    if training:
        groups.append(("Training", [("run", training["run"]), *_shown(training["recipe"])]))
    git = facts["git"] or {}
    versions = [(key, str(value)) for key, value in facts["versions"].items()]
    commit = f"{git.get('commit') or 'unknown'}{' (dirty)' if git.get('dirty') else ''}"
    versions += [("python", facts["python"]), ("platform", facts["platform"]), ("commit", commit)]
    groups.append(("Versions", versions))
    return groups


def _shown(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (key.replace("_", " "), show_setting(key, value))
        for key, value in values.items()
        if not isinstance(value, Mapping) and value is not None
    ]


def _title(name: str) -> str:
    return name[0].upper() + name[1:]
