"""The fast path is the slow one, to the last digits, however a step is split."""

import dataclasses
import random

import pytest
import torch

from mmcb.models.loading import LoadedModel, load_model
from mmcb.training.batches import PixelCache
from mmcb.training.examples import EncodedExample
from mmcb.training.losses import escape_directions
from mmcb.training.objective import step_totals
from mmcb.training.recipes import Recipe
from mmcb.training.reroute import Rerouter, add_adapter
from mmcb.training.schedule import Weights
from mmcb.training.targets import reroute_targets
from tests.tiny_models import OTHER_DECODERS, make_other_decoder, make_tiny_llava_1_5
from tests.training.helpers import KINDS, Load, encoded, tiny_recipe
from tests.training.reference import (
    gradients,
    in_float64,
    reference_losses,
    reference_target,
)

WEIGHTS = Weights(reroute=3.0, retain=2.0, escape=1.5)
MASKS = ("all", "after_image", "completion")


def _ready(load: Load, kind: str, monkeypatch: pytest.MonkeyPatch, **changes: object):
    """A whole model in float64 with an adapter that does something."""
    loaded = in_float64(load(kind, num_blocks=None), monkeypatch)
    recipe = tiny_recipe(loaded, **changes)
    loaded = add_adapter(loaded, recipe, seed=0)
    loaded.model.double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return loaded, recipe


def _some(data_folder, loaded: LoadedModel, recipe: Recipe) -> list[EncodedExample]:
    """A few of each kind, with and without an image where the model takes one, lengths mixed."""
    found = encoded(data_folder, loaded, recipe).examples
    chosen = [e for kind in ("circuit_breaker", "retain")
              for e in [e for e in found if e.kind == kind][1:9:3]]  # fmt: skip
    assert len({len(e.input_ids) for e in chosen}) > 2
    assert {e.image is None for e in chosen} == ({True, False} if loaded.is_vlm else {True})
    return chosen


def _fast(
    loaded: LoadedModel, rerouter: Rerouter, split: list[list[EncodedExample]]
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    whole = [example for part in split for example in part]
    totals = step_totals(rerouter.objective, whole, batches=len(split))
    pixels = PixelCache(loaded)
    sums: dict[str, float] = {}
    for part in split:
        outputs = rerouter(rerouter.objective.collate(part, pixels=pixels), WEIGHTS, totals)
        outputs["loss"].backward()
        for name, value in outputs.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
    return sums, gradients(loaded)


def _assert_same(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], *, tolerance: float
) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0, name
        assert (found[name] - gradient).abs().max() <= tolerance, name


CASES = [(kind, mask, None, (2, 3)) for kind in KINDS for mask in MASKS]
CASES += [("vlm", "after_image", "completion", (0, 3)), ("llm", "all", "completion", (0, 3))]


@pytest.mark.parametrize(("kind", "mask", "retain_mask", "lora_layers"), CASES)
def test_the_fast_path_is_the_slow_one_however_it_is_split(
    load: Load, data_folder, monkeypatch, kind, mask, retain_mask, lora_layers
) -> None:
    loaded, recipe = _ready(
        load, kind, monkeypatch, mask=mask, retain_mask=retain_mask, lora_layers=lora_layers
    )
    rerouter = Rerouter(loaded, recipe, seed=0).eval()
    _compare(loaded, recipe, rerouter, _some(data_folder, loaded, recipe))


@pytest.mark.parametrize("target", ["refusal", "eos", "randp"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_targets_are_the_slow_ones_too(
    load: Load, data_folder, monkeypatch, kind, target
) -> None:
    loaded, recipe = _ready(load, kind, monkeypatch, mask="completion", reroute_target=target)
    examples = [
        dataclasses.replace(e, task="refusal") if e.kind == "retain" and i % 2 else e
        for i, e in enumerate(_some(data_folder, loaded, recipe))
    ]
    targets = reroute_targets(loaded, recipe, examples, pixels=PixelCache(loaded), seed=0)
    assert targets is not None
    if target != "randp":
        slow = reference_target(loaded, recipe, examples, target=target)
        assert (targets - slow).abs().max() <= 1e-9
    rerouter = Rerouter(loaded, recipe, seed=0).eval()
    rerouter.objective.aim(targets)
    _compare(loaded, recipe, rerouter, examples, targets=targets)


@pytest.mark.parametrize("name", ["llava-1.5", *OTHER_DECODERS])
def test_other_models_are_the_slow_ones_too(data_folder, monkeypatch, tmp_path, name: str) -> None:
    llava = name == "llava-1.5"
    folder = make_tiny_llava_1_5(tmp_path) if llava else make_other_decoder(tmp_path, name)
    loaded, recipe = _ready(
        lambda *_, **how: load_model(str(folder), **how), "llm", monkeypatch, lora_layers=(1, 3)
    )
    rerouter = Rerouter(loaded, recipe, seed=0).eval()
    _compare(loaded, recipe, rerouter, _some(data_folder, loaded, recipe))


def _compare(
    loaded: LoadedModel,
    recipe: Recipe,
    rerouter: Rerouter,
    examples: list[EncodedExample],
    targets: torch.Tensor | None = None,
) -> None:
    """Losses and gradients of the fast path and the slow one, for several splits."""
    wanted = reference_losses(
        loaded, recipe, examples, weights=WEIGHTS,
        directions=escape_directions(2, width=96, seed=0), targets=targets,
    )  # fmt: skip
    wanted["loss"].backward()
    slow = gradients(loaded)
    mixed = random.Random(0).sample(examples, len(examples))
    for split in ([examples], [mixed[:1], mixed[1:3], mixed[3:]], [[e] for e in mixed]):
        terms, fast = _fast(loaded, rerouter, split)
        for name, value in wanted.items():
            assert terms[name] == pytest.approx(float(value.detach()), abs=1e-9), name
        _assert_same(fast, slow, tolerance=1e-9)


def test_totals_are_those_of_the_masks(load: Load, data_folder) -> None:
    loaded = load("vlm")
    for mask in MASKS:
        recipe = tiny_recipe(loaded, mask=mask, retain_mask="completion")
        rerouter = Rerouter(add_adapter(load("vlm"), recipe, seed=0), recipe, seed=0)
        examples = encoded(data_folder, loaded, recipe).examples
        totals = step_totals(rerouter.objective, examples, batches=1)
        batch = rerouter.objective.collate(examples, pixels=PixelCache(loaded))
        assert totals.reroute_tokens == len(batch.rerouted)
        assert totals.retain_tokens == len(batch.retained)
