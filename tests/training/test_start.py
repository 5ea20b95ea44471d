"""The measured start: off the saddle within its steps, whatever the learning rate."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmcb.errors import MmcbError
from mmcb.models.families import FAMILIES
from mmcb.training import stepper as stepper_module
from mmcb.training import trainer as trainer_module
from mmcb.training.config import TrainingConfig
from mmcb.training.recipes import Recipe, resolve_recipe
from mmcb.training.run import train
from mmcb.training.start import FINE, LEFT, MOST_PULL, PROBE_COSINE, Starter, find_size
from mmcb.training.trainer import read_metrics
from tests.training.helpers import KINDS, tiny_config


def _row(cosine: float, rate: float = 0.01) -> dict[str, float]:
    return {
        "reroute_cosine": cosine, "learning_rate": rate, "frozen_norm": 20.0,
        "reroute_weight": 6.0, "escape_weight": 4.0,
    }  # fmt: skip


def _recipe(learning_rate: float, start_steps: int) -> Recipe:
    config = tiny_config(learning_rate=learning_rate, start_steps=start_steps)
    return resolve_recipe(config, FAMILIES["tiny-mistral"])


def _never() -> float:
    raise AssertionError("probed")


@pytest.mark.parametrize("scale", [1e-4, 0.03, 2.0])
def test_the_size_is_found_whatever_the_models_scale(scale: float) -> None:
    found = find_size(lambda size: math.cos(min(size / scale, 3.0)))
    exact = scale * math.acos(PROBE_COSINE)
    assert exact <= found <= exact * FINE * 1.0001


def test_a_direction_that_leads_nowhere_is_told() -> None:
    with pytest.raises(MmcbError, match="no way off the saddle"):
        find_size(lambda size: 1.0)


def test_the_start_ends_once_the_cosine_is_low_or_its_steps_are_over() -> None:
    starter = Starter(_recipe(1e-4, 3), probe=lambda: 0.03)
    assert starter.learning_rate == pytest.approx(0.01)
    starter.saw(_row(0.9))
    assert starter.learning_rate == pytest.approx(0.01)
    starter.saw(_row(LEFT - 0.01))
    assert starter.learning_rate == 1e-4
    starter.saw(_row(0.99))
    assert starter.learning_rate == 1e-4  # it does not begin again
    starter = Starter(_recipe(1e-4, 3), probe=lambda: 0.03)
    for _ in range(3):
        assert starter.learning_rate == pytest.approx(0.01)
        starter.saw(_row(0.99))
    assert starter.learning_rate == 1e-4


def test_what_falls_behind_goes_faster() -> None:
    starter = Starter(_recipe(1e-4, 10), probe=lambda: 0.1)
    for cosine in (1.0, 0.999, 0.95):  # the third step is in time
        starter.saw(_row(cosine))
    assert starter.learning_rate == pytest.approx(0.01)
    starter.saw(_row(0.95))
    assert starter.learning_rate == pytest.approx(0.015)
    starter.saw(_row(0.6))
    assert starter.learning_rate == pytest.approx(0.015)


def test_the_retain_weight_is_held_to_what_pushes_until_the_start_is_over() -> None:
    starter = Starter(_recipe(1e-4, 10), probe=lambda: 0.1)
    assert starter.most_retain == math.inf  # step 1 moves nothing that it could hold
    starter.saw(_row(0.99))
    assert starter.most_retain == pytest.approx(MOST_PULL * (6 + 4) / 20)
    starter.saw(_row(LEFT - 0.01))
    assert starter.most_retain == math.inf
    assert Starter(_recipe(1e-4, 0), probe=_never, history=[_row(0.9)]).most_retain == math.inf


def test_it_never_goes_slower_than_asked_and_without_it_nothing_is_probed() -> None:
    assert Starter(_recipe(1.0, 3), probe=lambda: 0.03).learning_rate == 1.0
    assert Starter(_recipe(1e-4, 0), probe=_never).learning_rate == 1e-4


def test_a_run_that_goes_on_knows_the_rate_from_its_rows() -> None:
    starter = Starter(_recipe(1e-4, 3), probe=_never, history=[_row(0.9), _row(0.8)])
    assert starter.learning_rate == 0.01
    starter.saw(_row(0.7))
    assert starter.learning_rate == 1e-4


@pytest.fixture
def config(model_folders: dict[str, Path], data_folder: Path, tmp_path: Path) -> TrainingConfig:
    return tiny_config(
        model=str(model_folders["llm"]), data=data_folder, out=tmp_path / "run", start_steps=10,
        steps=10, learning_rate=1e-5, lora_layers=(0, 3), mask="completion", validate_every=0,
        retain_weight=10.0, embedding_noise=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("learning_rate", [1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize("kind", KINDS)
def test_it_leaves_the_saddle_within_ten_steps_at_any_rate(
    config: TrainingConfig, model_folders: dict[str, Path], kind: str, learning_rate: float
) -> None:
    changes = {"model": str(model_folders[kind]), "learning_rate": learning_rate}
    rows = read_metrics(train(config.model_copy(update=changes)))
    cosines = [row["reroute_cosine"] for row in rows]
    assert cosines[0] > 0.999
    assert min(cosines[:9]) < LEFT  # and a step to spare
    left = next(i for i, cosine in enumerate(cosines) if cosine < LEFT)
    assert all(row["learning_rate"] > 1e-3 for row in rows[: left + 1])
    assert all(row["learning_rate"] == learning_rate for row in rows[left + 1 :])
    # The schedule's own weight is far above what such states can be pushed against.
    for before, row in itertools.pairwise(rows[: left + 1]):
        push = before["reroute_weight"] + before["escape_weight"]
        assert row["retain_weight"] <= MOST_PULL * push / before["frozen_norm"] * (1 + 1e-9)
    assert rows[-1]["retain_weight"] == 5.0


def test_a_start_that_was_cut_short_goes_on_as_it_would_have(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config.model_copy(update={"out": tmp_path / "whole"}))
    original = stepper_module.Stepper.queue

    class Kill(BaseException):
        pass

    def dies(self: Any, step: int, passes: Any, **settings: Any) -> Any:
        if step == 4:
            raise Kill
        return original(self, step, passes, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(stepper_module.Stepper, "queue", dies)
        with pytest.raises(Kill):
            train(config)
    monkeypatch.setattr(trainer_module.Trainer, "_probe", lambda self: _never())
    resumed = train(config)
    rows = [[{**row, "seconds": 0} for row in read_metrics(run)] for run in (whole, resumed)]
    assert rows[0] == rows[1]
    adapters = [load_file(run / "adapter/adapter_model.safetensors") for run in (whole, resumed)]
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())
