"""Where should circuit-breaker tokens go? One model, one recipe, every reroute target.

Trains the miniature VLM once for each target, nothing else changed, hijacks pictures against each
defended model with the same budget, and prints attack success, capability and coherence.

    python -m mmcb.demo                      # draws the world and makes the training data
    python benchmarks/targets.py

Everything is kept in runs/targets and what is finished is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from mmcb.cli import run_command
from mmcb.config import Config
from mmcb.models.recipe_defaults import RerouteTarget

MODEL = "tiny-llava-next"

ATTACKS = ("trigger", "prefill", "image_hijack", "image_hijack_heldout")
TASKS = ("caption", "vqa", "fact", "benign_howto")


class TargetsConfig(Config):
    """Train, attack and judge the miniature VLM, once for each reroute target."""

    targets: tuple[RerouteTarget, ...] = ("rr", "refusal", "eos", "randp")
    """Reroute targets to compare."""

    seeds: tuple[int, ...] = (0,)
    """Seeds to train from."""

    steps: int | None = None
    """Optimiser steps (default: the recipe's)."""

    start_steps: int | None = None
    """Steps of the measured start (default: the recipe's)."""

    reroute_weight: float | None = None
    """Reroute weight (default: the recipe's)."""

    embedding_noise: float = 0.0
    """Noise on circuit-breaker embeddings: none, so that the target alone decides."""

    num_hijacks: int = Field(default=48, ge=2)
    """Behaviors to hijack a picture for; half are of categories that no training record has."""

    attack_steps: int = Field(default=100, ge=1)
    """Steps of every image hijack."""

    world: Path = Path("data/miniature")
    """The miniature world."""

    data: Path = Path("data/synthesis/miniature")
    """The circuit-breaker and the retain set."""

    out: Path = Path("runs/targets")
    """Folder of the runs."""


def main() -> None:
    """Read the command line, run what is missing, print the tables."""
    run_command(
        TargetsConfig,
        _run,
        prog="benchmarks/targets.py",
        description="Compare where circuit-breaker tokens are rerouted to.",
    )


def _run(config: TargetsConfig) -> None:
    found: dict[str, Mapping[str, Any]] = {}
    for target in config.targets:
        for seed in config.seeds:
            folder = config.out / _name(config, target, seed)
            found[folder.name] = _measured(config, target, seed, folder)
            print(_table(found))


def _measured(
    config: TargetsConfig, target: RerouteTarget, seed: int, folder: Path
) -> Mapping[str, Any]:
    """The results of one target, from its folder if they are there."""
    from mmcb.attacks.image_hijack.config import ImageHijackConfig
    from mmcb.attacks.image_hijack.run import run_image_hijack
    from mmcb.evaluation.config import EvaluationConfig
    from mmcb.evaluation.pipeline import evaluate
    from mmcb.training.recipes import preset
    from mmcb.training.run import train

    kept = folder / "results.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    asked = {
        "steps": config.steps,
        "start_steps": config.start_steps,
        "reroute_weight": config.reroute_weight,
    }
    changes = {name: value for name, value in asked.items() if value is not None}
    training = {
        "data": config.data,
        "out": folder / "training",
        "seed": seed,
        "evaluate": False,
        "embedding_noise": config.embedding_noise,
        "reroute_target": target,
    }
    train(preset(MODEL).model_copy(update={**training, **changes}))
    behaviors = config.world / "evaluation/behaviors.jsonl"
    hijacks = run_image_hijack(
        ImageHijackConfig(
            model=MODEL,
            adapter=str(folder / "training"),
            target_models="defended",
            behaviors=behaviors,
            num_behaviors=config.num_hijacks,
            steps=config.attack_steps,
            batch_size=48,
            out=folder / "hijacks",
        )
    )
    results = evaluate(
        EvaluationConfig(
            model=MODEL,
            adapter=str(folder / "training/adapter"),
            behaviors=behaviors,
            text_behaviors=None,
            tasks=config.world / "evaluation/tasks.jsonl",
            triggers=config.world / "attacks/triggers.txt",
            hijacks=(hijacks,),
            out=config.out / "evaluation",  # one folder for all: the base answers once
        ),
        report=False,
    )
    kept.write_text(json.dumps(results, indent=2) + "\n")
    return results


def _name(config: TargetsConfig, target: str, seed: int) -> str:
    changed = (
        ("steps", config.steps),
        ("start", config.start_steps),
        ("weight", config.reroute_weight),
        ("noise", config.embedding_noise or None),
    )
    parts = [f"{label}-{value:g}" for label, value in changed if value is not None]
    return "-".join([target, *parts, f"seed-{seed}"])


def _table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, as docs/lab-log.md keeps it: rates with n and 95 % interval."""
    lines = ["", f"| | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]

    def add(title: str, of: Any) -> None:
        cells = [_rate(of(results)) for results in found.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")

    for attack in ATTACKS:
        add(f"ASR, {attack}", lambda r, a=attack: r["models"]["defended"]["asr"][a])
    for split in ("train", "heldout"):
        for attack in ("trigger", "prefill"):
            add(
                f"ASR, {attack}, {split} categories",
                lambda r, s=split, a=attack: r["splits"][s]["defended"][a],
            )
    for task in TASKS:
        add(task, lambda r, t=task: r["models"]["defended"]["capability"][t])
    add("over-refusal", lambda r: r["models"]["defended"]["over_refusal"])
    for attack in ATTACKS:
        add(f"coherent, {attack}", lambda r, a=attack: r["coherence"]["coherence"]["defended"][a])
    return "\n".join(lines)


def _rate(rate: Mapping[str, Any]) -> str:
    if not rate["n"]:
        return "-"
    return f"{rate['value']:.3f} ({rate['low']:.2f} to {rate['high']:.2f}), n {rate['n']}"


if __name__ == "__main__":
    main()
