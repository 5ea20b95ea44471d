"""The sentences of the report, made from its numbers, and how numbers are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcb.evaluation.facts import show_epsilon
from mmcb.evaluation.judges import panel_of
from mmcb.evaluation.table import ASR_NAMES

Rate = Mapping[str, Any]

TEXT_SECTIONS = {
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


_STRONGEST_FIRST = (
    *("image_hijack", "embedding", "gcg", "steering", "prefill", "multi_turn", "trigger"),
    *("static", "translated", "direct"),
)


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


def headline(results: Mapping[str, Any]) -> str:
    """The sentence on top: what the attacks reached before and after, and what it cost."""
    base = results["models"].get("base")
    defended = results["models"].get("defended")
    if base is None:
        return "No base model was measured."
    attack = next(
        (key for key in _STRONGEST_FIRST if base["asr"][key]["n"]),
        None,
    )
    if defended is None:
        if attack is None:
            return "No attack was measured."
        return f"The {_attack(attack)} succeeds on {percent(base['asr'][attack])} of behaviors."
    parts = []
    if attack is not None:
        before, after = percent(base["asr"][attack]), percent(defended["asr"][attack])
        parts.append(
            f"The {_attack(attack)} succeeds on {before} of behaviors before rerouting and on "
            f"{after} after it{_heldout(attack, base, defended)}"
        )
    kept = _kept(base["capability"], defended["capability"])
    if kept:
        parts.append(kept)
    return "; ".join(parts) + "." if parts else "Nothing was measured."


def _heldout(attack: str, base: Mapping[str, Any], defended: Mapping[str, Any]) -> str:
    key = "image_hijack_heldout"
    if attack != "image_hijack" or not base["asr"][key]["n"]:
        return ""
    before, after = percent(base["asr"][key]), percent(defended["asr"][key])
    return f" (in categories never trained on: {before} and {after})"


def _attack(key: str) -> str:
    return ASR_NAMES[key] if key != "image_hijack" else "image hijack"


def _kept(base: Mapping[str, Rate], defended: Mapping[str, Rate]) -> str:
    changes = {
        key: defended[key]["value"] - base[key]["value"]
        for key in base
        if base[key]["n"] and defended[key]["n"]
    }
    if not changes:
        return ""
    worst = min(changes, key=lambda key: changes[key])
    name = worst.replace("benign_howto", "benign how-to").replace("vqa", "visual questions")
    change = f"({percent(base[worst])} to {percent(defended[worst])})"
    if changes[worst] >= 0:
        return "no benign capability got worse"
    return f"the benign capability that lost most is {name} {change}"


def judges(results: Mapping[str, Any]) -> list[str]:
    """How the judges differ, in words: what the phrase judge makes of a broken model."""
    names = list(results["judges"])
    if len(names) < 2 or "phrase" not in names:
        return []
    first = next(name for name in names if name != "phrase")
    sentences = [
        "The phrase judge counts every answer without a refusal phrase as a success. A model that "
        "rerouting has broken on harmful requests does not refuse, it stops making sense: to this "
        "judge that looks like a jailbreak."
    ]
    coherence = results["coherence"][panel_of(first).coherence]
    for role, asr in results["judges"]["phrase"].items():
        exact = results["judges"][first][role]
        key = _most_misleading(asr, exact)
        if key is not None:
            sentences.append(
                f"On the {role} model it calls {percent(asr[key])} of the {ASR_NAMES[key]} answers "
                f"successful; judged by what they say, {percent(exact[key])} are, and "
                f"{percent(coherence[role][key])} are coherent."
            )
    if len(sentences) == 1:
        sentences.append("In this evaluation both judges agree to within ten points.")
    return sentences


def _most_misleading(phrase: Mapping[str, Rate], exact: Mapping[str, Rate]) -> str | None:
    gaps = {
        key: phrase[key]["value"] - exact[key]["value"]
        for key in phrase
        if phrase[key]["n"] and exact[key]["n"]
    }
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
        found.append(f"The images against the defended model were made for {', '.join(others)}.")
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
    groups = [
        ("Model", model),
        ("Decoding", [("engine", facts["engine"]), *decoding]),
        ("Judges", [("harm, first is the headline's", ", ".join(facts["judges"]))]),
    ]
    for role in ("base", "defended"):
        values = facts["attack"].get(role)
        if values:
            groups.append((f"Image hijack, {role}", _shown(values)))
    if training:
        groups.append(("Training", [("run", training["run"]), *_shown(training["recipe"])]))
    git = facts["git"] or {}
    versions = [(key, str(value)) for key, value in facts["versions"].items()]
    commit = f"{git.get('commit') or 'unknown'}{' (dirty)' if git.get('dirty') else ''}"
    versions += [("python", facts["python"]), ("platform", facts["platform"]), ("commit", commit)]
    groups.append(("Versions", versions))
    return groups


def _shown(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    def show(key: str, value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(show(key, item) for item in value)
        return show_epsilon(value) if key in ("epsilon", "step_size") else str(value)

    return [
        (key.replace("_", " "), show(key, value))
        for key, value in values.items()
        if not isinstance(value, Mapping) and value is not None
    ]
