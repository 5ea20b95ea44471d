"""Image hijacks, ours against a straightforward Hugging Face loop: `python -m benchmarks.attack`.

The reference is what published code does: one example at a time, weights that require gradients,
`loss = model(**inputs, labels=labels).loss; loss.backward()`, so logits at every position. It gets
our differentiable preprocessing, because the stock processor has none; so both walk the same path,
and the loss curves must agree. Variants take turns, step by step, on the same behaviors, and
medians over the steps are reported. A pass is one forward and backward of one example. The last
line is one JSON object.

`--universal` is one picture for all behaviors of a step: there, our own way before, with the
picture's tokens in every behavior's row, stands beside the present one.

`--scaled` takes the shape of LLaVA-NeXT 7B instead of a shipped model: all its blocks, every width
divided by 16, and as many times fewer tokens a view, so that attention keeps its share. The words
stay as many, so a picture is short beside them; `--tile 168` brings it nearer to a real one's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from benchmarks.attack.plain import BALL, STEP, PlainLoop
from benchmarks.attack.timing import Timer, print_rates, print_result
from benchmarks.attack.universal import measure_universal
from benchmarks.training.shapes import make_model
from mmcb.attacks.image_hijack.subjects import read_levels
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.optimiser import StepRule
from mmcb.attacks.pgd import PGDSettings, ProjectedGradientDescent
from mmcb.attacks.pixels import PixelSpace
from mmcb.cli import run_command
from mmcb.config import Config
from mmcb.errors import MmcbError
from mmcb.models.families import find_family
from mmcb.models.loading import LoadedModel, load_model
from mmcb.records import Behavior
from mmcb.store import read_records, resolve_image


class BenchmarkConfig(Config):
    """Time the steps of an image hijack."""

    model: str = "tiny-llava-next"
    """Family, hub id or folder of a vision-language model."""

    scaled: bool = False
    """A scaled-down LLaVA-NeXT 7B with random weights, in the place of `model`."""

    tile: int = Field(default=84, ge=14)
    """Side of a view of the scaled model; 84: 6 x 6 patches, a sixteenth of the 24 x 24 of 336."""

    freeze_reference: bool = False
    """Let the plain loop ask for no gradients of weights, as a careful author would."""

    behaviors: Path = Path("data/miniature/evaluation/behaviors.jsonl")
    """Behavior records with pictures of one size."""

    universal: bool = False
    """One picture for all behaviors, with empty requests, as `--preset qi-universal` has it."""

    requests: bool = False
    """With `universal`: the behaviors' own requests behind the picture."""

    batch_size: int = Field(default=16, ge=1)
    """Behaviors: attacked together by ours, one after another by the reference."""

    steps: int = Field(default=6, ge=1)
    """Steps to time, after one of warm-up."""

    device: str = "auto"
    """Device: auto, cpu, cuda, ..."""


def main() -> None:
    """Read the command line, measure, print the table."""
    run_command(
        BenchmarkConfig,
        _run,
        prog="python -m benchmarks.attack",
        description="Time an image hijack's steps, ours and a plain loop's, on the same behaviors.",
    )


def _run(config: BenchmarkConfig) -> None:
    # Two models of the same weights: ours freezes its own, the plain loop's require gradients.
    ours, plain = _load(config), _load(config)
    plain.model.requires_grad_(not config.freeze_reference)
    behaviors, clean = _behaviors(config)
    model = "scaled llava-next" if config.scaled else config.model
    if not config.universal:
        _measure(config, ours, plain, behaviors, clean, model)
        return
    pairs = [(one.prompt if config.requests else "", one.target) for one in behaviors]
    measure_universal(ours, plain, pairs, clean[0], steps=config.steps, model=model)


def _load(config: BenchmarkConfig) -> LoadedModel:
    loaded = load_model(config.model, device=config.device)
    if not config.scaled:
        return loaded
    blocks = find_family("llava-next").num_blocks
    return make_model(
        "llava-next",
        "cpu",
        tokenizer=loaded.tokenizer,
        num_blocks=blocks,
        with_head=True,
        tile=config.tile,
    )


def _behaviors(config: BenchmarkConfig) -> tuple[list[Behavior], Tensor]:
    if not config.behaviors.is_file():
        raise MmcbError(f"{config.behaviors} is not there", hint="python -m mmcb.miniature")
    chosen = [one for one in read_records(config.behaviors, Behavior) if one.image is not None]
    chosen = chosen[: config.batch_size]
    pictures = [
        read_levels(resolve_image(config.behaviors, one.image)) for one in chosen if one.image
    ]
    return chosen, torch.stack(pictures)


def _ours(
    loaded: LoadedModel, behaviors: Sequence[Behavior], clean: Tensor, steps: int
) -> ProjectedGradientDescent:
    objective = TargetObjective(
        loaded,
        prompts=[behavior.prompt for behavior in behaviors],
        targets=[behavior.target for behavior in behaviors],
        image_size=(clean.shape[2], clean.shape[3]),
    )
    return ProjectedGradientDescent(
        # One more than is timed: the last evaluation of a restart takes no gradient.
        PGDSettings(rule=StepRule(step_size=STEP), steps=steps + 1, stop_loss=-1.0),
        space=PixelSpace(clean.to(loaded.device), ball=BALL),
        objective=objective,
        row_ids=[behavior.id for behavior in behaviors],
    )


def _measure(
    config: BenchmarkConfig,
    ours_model: LoadedModel,
    plain_model: LoadedModel,
    behaviors: Sequence[Behavior],
    clean: Tensor,
    model: str,
) -> None:
    """A picture for each behavior."""
    references = [
        PlainLoop(plain_model, picture, [(behavior.prompt, behavior.target)])
        for behavior, picture in zip(behaviors, clean, strict=True)
    ]
    attack = _ours(ours_model, behaviors, clean, config.steps)
    ours, reference = Timer(ours_model.device), Timer(ours_model.device)
    for _ in range(config.steps + 1):
        ours.time(attack.step)
        reference.time(lambda: _step_all(references))
    curves = [result.curve for result in attack.results()]
    apart = max(
        abs(mine - theirs)
        for curve, one in zip(curves, references, strict=True)
        for mine, theirs in zip(curve, one.losses, strict=False)
    )
    print(f"{model}, {len(curves)} behaviors, {config.steps} steps each\n")
    rates = {"plain loop": reference.rates(len(curves)), "mmcb": ours.rates(len(curves))}
    ratio = print_rates(rates)
    first, last = (sum(curve[at] for curve in curves) / len(curves) for at in (0, config.steps))
    print(f"\nMean loss {first:.4f} to {last:.4f}; the curves differ by at most {apart:.2g}.")
    print_result(
        rates,
        ratio,
        device=ours.device,
        curves_differ_by=apart,
        model=model,
        reference_frozen=config.freeze_reference,
        batch_size=len(curves),
        steps=config.steps,
    )


def _step_all(references: Sequence[PlainLoop]) -> None:
    for one in references:
        one.step()


if __name__ == "__main__":
    main()
