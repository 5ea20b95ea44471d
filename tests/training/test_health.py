"""A run that goes wrong says so and ends as failed, without an adapter."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from mmcb.cli import EXIT_USER_ERROR, run_command
from mmcb.errors import MmcbError
from mmcb.run_folder import read_manifest
from mmcb.training import health
from mmcb.training import stepper as stepper_module
from mmcb.training.config import TrainingConfig
from mmcb.training.health import LONG_ENOUGH, WINDOW, Health, check_finite
from mmcb.training.run import train
from tests.training.helpers import tiny_config


def _row(*, cosine: float = 0.2, retain: float = 0.5, norm: float = 10.0) -> dict[str, float]:
    return {"reroute_cosine": cosine, "retain_loss": retain, "frozen_norm": norm}


def _watch(rows: list[dict[str, float]]) -> None:
    watch = Health(steps=len(rows))
    for step, row in enumerate(rows, start=1):
        watch.check(step, row)


def test_a_healthy_run_passes_though_it_is_wild_at_first() -> None:
    early = [_row(cosine=1.0, retain=13.0)] * 20
    _watch(early + [_row()] * 60)


def test_a_cosine_that_never_falls_fails_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level("WARNING", logger="mmcb"),
        pytest.raises(MmcbError, match=f"step {LONG_ENOUGH}: .*has not left its saddle") as caught,
    ):
        _watch([_row(cosine=0.999)] * LONG_ENOUGH)
    assert caught.value.hint is not None
    assert "--learning-rate" in caught.value.hint
    assert f"step {LONG_ENOUGH // 2}" in caplog.text  # and a warning half way


def test_a_short_trial_is_only_warned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="mmcb"):
        _watch([_row(cosine=0.999)] * (LONG_ENOUGH - 1))
    assert caplog.text.count("has not left its saddle") == 2


def test_a_diverging_retain_loss_fails_in_the_second_half() -> None:
    with pytest.raises(MmcbError, match="step 41: the retain loss diverges"):
        _watch([_row(retain=12.0)] * 80)


def test_a_runaway_retain_loss_fails_at_once() -> None:
    with pytest.raises(MmcbError, match=f"step {WINDOW}: the retain loss diverges"):
        _watch([_row(retain=500.0)] * 80)


def test_one_bad_batch_is_not_divergence() -> None:
    _watch([_row()] * 50 + [_row(retain=60.0)] + [_row()] * 29)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_a_number_is_named(value: float) -> None:
    with pytest.raises(MmcbError, match=r"step 3: grad_norm not finite"):
        check_finite({"loss": 1.0, "grad_norm": value}, step=3)


@pytest.fixture
def config(model_folders: dict[str, Path], data_folder: Path, tmp_path: Path) -> TrainingConfig:
    return tiny_config(model=str(model_folders["llm"]), data=data_folder, out=tmp_path / "run")


@pytest.mark.parametrize("wrong", [{"retain_loss": 1e6}, {"reroute_cosine": 0.999}])
def test_a_failed_run_exits_with_2_and_saves_no_adapter_ever(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch, capsys, wrong: dict[str, float]
) -> None:
    original = stepper_module.Queued.row

    def bad(self: Any) -> dict[str, Any]:
        return original(self) | wrong

    monkeypatch.setattr(stepper_module.Queued, "row", bad)
    monkeypatch.setattr(health, "LONG_ENOUGH", 4)
    monkeypatch.setattr(health, "WINDOW", 3)
    monkeypatch.setattr(sys, "argv", ["training"])
    assert config.out is not None
    for _ in range(2):  # again, from its last checkpoint: it may not end well either
        with pytest.raises(SystemExit) as caught:
            run_command(TrainingConfig, lambda _: train(config) and None, prog="x", description="x")
        assert caught.value.code == EXIT_USER_ERROR
        errors = capsys.readouterr().err
        assert "error: step" in errors
        assert "hint: " in errors
        manifest = read_manifest(config.out)
        assert manifest["status"] == "failed"
        assert "MmcbError: step" in manifest["error"]
        assert not (config.out / "adapter").exists()
