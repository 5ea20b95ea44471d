"""Stopping early: when, and that a run which goes on stops where it would have."""

from pathlib import Path

import pytest

from mmcb.errors import MmcbError
from mmcb.run_folder import read_manifest
from mmcb.training import run as run_module
from mmcb.training import stopping
from mmcb.training.config import TrainingConfig
from mmcb.training.run import train
from mmcb.training.stopping import WINDOW, Stopper
from mmcb.training.trainer import read_metrics
from tests.training.helpers import tiny_config


def _rows(cosine: float, retain: float, *, steps: int = WINDOW) -> list[dict[str, float]]:
    return [{"reroute_cosine": cosine, "retain_loss": retain}] * steps


RISEN = _rows(1.0, 0.1) + _rows(0.6, 10.0)
"""The cosine falls, the retain loss rises."""


def _done(rows: list[dict[str, float]], *, enabled: bool = True) -> bool:
    return Stopper(enabled=enabled, history=rows).done


def test_it_stops_once_both_have_settled_and_not_before() -> None:
    settled = RISEN + _rows(0.1, 1.05) + _rows(0.1, 1.0)
    assert _done(settled)
    assert not _done(settled[:-WINDOW])  # it has only just fallen
    assert not _done(settled, enabled=False)


def test_a_high_cosine_a_falling_loss_and_the_top_of_it_are_no_end() -> None:
    assert not _done(RISEN + _rows(0.6, 1.0, steps=2 * WINDOW))
    assert not _done(RISEN + _rows(0.1, 2.0) + _rows(0.1, 1.5))
    assert not _done(RISEN + _rows(0.1, 10.0, steps=2 * WINDOW))
    assert not _done(_rows(0.1, 1.0))


@pytest.fixture
def config(
    model_folders: dict[str, Path],
    data_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> TrainingConfig:
    """Of a run that is to stop after 4 steps of 8."""
    monkeypatch.setattr(stopping, "COLLAPSED", 2.0)
    monkeypatch.setattr(stopping, "FROM_PEAK", 10.0)
    monkeypatch.setattr(stopping, "SETTLED", 1e9)
    monkeypatch.setattr(stopping, "WINDOW", 2)
    monkeypatch.setattr(stopping, "_HALVES", (slice(2), slice(2, None)))
    return tiny_config(
        model=str(model_folders["llm"]), data=data_folder, out=tmp_path / "run", steps=8,
        stop_early=True, learning_rate=1e-2, checkpoint_every=3,
    )  # fmt: skip


def test_a_run_that_stops_early_is_complete_and_says_so(config: TrainingConfig) -> None:
    run = train(config)
    rows = read_metrics(run)
    assert len(rows) == 4
    assert "heldout_reroute_cosine" in rows[-1]
    assert read_manifest(run)["status"] == "complete"
    assert read_manifest(run)["steps"] == {"done": 4, "of": 8, "stopped_early": True}
    assert (run / "adapter").is_dir()


def test_a_run_killed_after_its_last_step_trains_no_further(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config.model_copy(update={"out": tmp_path / "whole"}))

    class Kill(BaseException):
        pass

    def dies(*_: object, **__: object) -> None:
        raise Kill

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_adapter", dies)
        with pytest.raises(Kill):
            train(config)
    resumed = train(config)
    assert len(read_metrics(resumed)) == 4
    name = "adapter/adapter_model.safetensors"
    assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_without_its_rows_a_run_cannot_go_on(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(config)
    (run / "adapter/adapter_model.safetensors").unlink()
    (run / "adapter/adapter_config.json").unlink()
    for file in (run / "adapter").iterdir():
        file.unlink()
    (run / "adapter").rmdir()
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(MmcbError, match=r"metrics\.jsonl has rows of 0"):
        train(config)
