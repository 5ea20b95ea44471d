"""A results.json made of chosen numbers, for tests of what reads one."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcb.evaluation.comparison import Evaluation
from mmcb.evaluation.metrics import wilson_interval
from mmcb.evaluation.summarize import ASR_KEYS


def rate(successes: int, n: int) -> dict[str, Any]:
    low, high = wilson_interval(successes, n)
    return {"value": successes / n if n else None, "n": n, "low": low, "high": high}


def make_results(
    asr: Mapping[str, Mapping[str, tuple[int, int]]],
    *,
    model: str = "tiny-llava-next",
    judges: tuple[str, ...] = ("miniature", "phrase"),
    attacks: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    **decoding: Any,
) -> dict[str, Any]:
    """Results with the attack successes given: role -> attack -> (successes, n)."""
    rates = {
        role: {key: rate(*found.get(key, (0, 0))) for key in ASR_KEYS}
        for role, found in asr.items()
    }
    panels = {"miniature": "miniature-coherence"}
    return {
        "version": 1,
        "models": {
            role: {
                "asr": rates[role],
                "capability": {"fact": rate(9, 10)},
                "over_refusal": rate(1, 10),
                "coherence_benign": rate(10, 10),
            }
            for role in asr
        },
        "judges": {judge: copy.deepcopy(rates) for judge in judges},
        "coherence": {panels.get(judge, "coherence"): copy.deepcopy(rates) for judge in judges},
        "agreement": [],
        "categories": {},
        "any_of_n": {role: {} for role in asr},
        "transfer": {},
        "counts": {role: {"no_answer": 0, "unparsable_verdicts": 0} for role in asr},
        "settings": {
            "model": model,
            "adapter": "runs/a/adapter" if "defended" in asr else None,
            "weights": {role: f"{model}-{role}" for role in asr},
            "engine": "transformers",
            "decoding": {"max_new_tokens": 96, "temperature": 0.0, "batch_size": 32, **decoding},
            "judges": list(judges),
            "attack": {"runs": [], "adapters": [], "settings": attacks or {}},
            "sets": {
                "behaviors": {"n": 10, "hash": "0" * 16},
                "tasks": {"n": 10, "hash": "1" * 16},
            },
            "versions": {"mmcb": "0.1.0", "torch": "2.13.0"},
            "python": "3.11",
            "platform": "Linux",
            "git": {"commit": "abc", "dirty": False},
        },
    }


def evaluation(name: str, results: Mapping[str, Any]) -> Evaluation:
    return Evaluation(name, Path(name), results)


def save_results(folder: Path, results: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder
