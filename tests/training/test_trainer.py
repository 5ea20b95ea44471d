"""Whole runs on tiny random models: what moves, resuming, errors, and leaving the saddle."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmcb.errors import MmcbError
from mmcb.models.loading import load_model
from mmcb.run_folder import read_manifest
from mmcb.store import locked
from mmcb.training import stepper as stepper_module
from mmcb.training import trainer as trainer_module
from mmcb.training.checkpoints import cut_metrics
from mmcb.training.config import TrainingConfig
from mmcb.training.recipes import read_recipe
from mmcb.training.run import _unfinished, train
from mmcb.training.trainer import read_metrics
from tests.training.helpers import KINDS, tiny_config

Folders = dict[str, Path]


@pytest.fixture
def config(model_folders: Folders, data_folder: Path, tmp_path: Path) -> TrainingConfig:
    return tiny_config(model=str(model_folders["llm"]), data=data_folder, out=tmp_path / "run")


def _adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def _timeless(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(run)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_leaves_everything_and_moves_every_adapter_weight(
    model_folders: Folders, data_folder: Path, tmp_path: Path, kind: str
) -> None:
    model = str(model_folders[kind])
    run = train(tiny_config(model=model, data=data_folder, out=tmp_path / "run", merge=True))
    assert read_manifest(run)["status"] == "complete"
    assert read_recipe(run / "recipe.json").target_layers == (3, 4)
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert ["heldout_reroute_cosine" in row for row in rows] == [False, True, False, True]
    assert rows[0]["reroute_loss"] == pytest.approx(1.0, abs=1e-5)
    assert rows[0]["retain_loss"] == 0.0
    assert {row["images"] > 0 for row in rows} == ({False} if kind == "llm" else {True, False})
    adapter = _adapter(run)
    assert len(adapter) == 2 * 2 * 7
    # B starts at zero: a weight that never moved would still be zero.
    assert all((t != 0).any(dim=-1).all() for name, t in adapter.items() if "lora_B" in name)
    base = load_model(model, device="cpu").model.state_dict()
    merged = load_model(str(run / "merged"), device="cpu").model.state_dict()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed
    assert all(".layers.2." in name or ".layers.3." in name for name in changed)
    assert len(changed) == 2 * 7


def test_training_changes_nothing_but_the_adapter(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[Any, dict[str, torch.Tensor]]] = []
    original = trainer_module.Trainer.__init__

    def spy(self: Any, loaded: Any, *args: Any, **kwargs: Any) -> None:
        original(self, loaded, *args, **kwargs)
        kept.append((loaded, {n: p.detach().clone() for n, p in loaded.model.named_parameters()}))

    monkeypatch.setattr(trainer_module.Trainer, "__init__", spy)
    train(config)
    loaded, before = kept[0]
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, before[name]) != ("lora_" in name), name


def test_schedule_follows_optimiser_steps_whatever_the_accumulation(
    config: TrainingConfig, tmp_path: Path
) -> None:
    weights = []
    for accumulation in (1, 3):
        out = tmp_path / str(accumulation)
        rows = read_metrics(
            train(config.model_copy(update={"out": out, "accumulation": accumulation}))
        )
        names = ("reroute_weight", "retain_weight", "escape_weight")
        weights.append([tuple(row[name] for name in names) for row in rows])
    assert weights[0] == weights[1]
    reroute, retain, _ = weights[0][-1]
    assert (reroute, retain) == pytest.approx((5.0, 2.5))  # half of each alpha at T = 4 of 2T = 8


class Kill(BaseException):
    """Stands for SIGKILL: no handler of the run may see it as an end."""


def _killed(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until step 4 is to be read: one row after the checkpoint of step 2."""
    original = stepper_module.Queued.row

    def dies(self: Any) -> dict[str, Any]:
        if self.step == 4:
            raise Kill
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(stepper_module.Queued, "row", dies)
        with pytest.raises(Kill):
            train(config)


def test_resumed_equals_uninterrupted(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config.model_copy(update={"out": tmp_path / "whole"}))
    _killed(config, monkeypatch)
    assert len(read_metrics(tmp_path / "run")) == 3  # one more than the checkpoint of step 2
    resumed = train(config)
    assert _timeless(resumed) == _timeless(whole)
    first, second = _adapter(whole), _adapter(resumed)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_another_split_goes_on_along_the_same_trajectory(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout is on: its noise belongs to the examples, and not to their batches."""
    config = config.model_copy(update={"batch_size": 4, "retain_batch_size": 6})
    whole = train(config.model_copy(update={"out": tmp_path / "whole"}))
    _killed(config, monkeypatch)
    other = {"batch_size": 2, "retain_batch_size": 3, "accumulation": 2}
    resumed = train(config.model_copy(update=other))
    for row, wanted in zip(_timeless(resumed), _timeless(whole), strict=True):
        assert row == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    first, second = _adapter(whole), _adapter(resumed)
    for name, tensor in first.items():
        assert (tensor - second[name]).abs().max() < 1e-5, name


def test_a_split_of_other_examples_is_refused(config: TrainingConfig) -> None:
    train(config)
    with pytest.raises(MmcbError, match="accumulation"):
        train(config.model_copy(update={"accumulation": 2}))


def test_a_damaged_or_foreign_checkpoint_is_refused_in_a_sentence(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _killed(config, monkeypatch)
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    good = checkpoint.read_bytes()
    checkpoint.write_bytes(good[: len(good) // 2])
    with pytest.raises(MmcbError, match=r"checkpoint\.safetensors is damaged"):
        train(config)
    checkpoint.write_bytes(b"")
    with pytest.raises(MmcbError, match=r"checkpoint\.safetensors is damaged"):
        train(config)
    save_file({"x": torch.zeros(1)}, checkpoint)
    with pytest.raises(MmcbError, match=r"is not a checkpoint of mmcb"):
        train(config)
    checkpoint.write_bytes(good)
    foreign = config.model_copy(update={"out": tmp_path / "other", "seed": 1})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoint.safetensors").write_bytes(good)
    with pytest.raises(MmcbError, match="the checkpoint of another run") as caught:
        train(foreign)
    assert caught.value.hint is not None
    train(config)  # and the whole one still serves


def test_sigkill_and_the_same_command_without_out(
    model_folders: Folders, data_folder: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable, "-m", "mmcb.training", "--model", str(model_folders["llm"]), "--data",
        str(data_folder), "--steps", "3000", "--batch-size", "2", "--retain-batch-size", "2",
        "--target-layers", "1", "--lora-layers", "0", "0", "--checkpoint-every", "1",
        "--device", "cpu", "--evaluate", "False", "--horizon", "6000",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    runs = tmp_path / "runs" / "training"
    while process.poll() is None and not any(runs.glob("*/checkpoint.safetensors")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    (run,) = runs.iterdir()
    assert read_manifest(run)["status"] == "started"
    settings = json.loads((run / "config.json").read_text())
    config = TrainingConfig.model_validate(settings)
    inputs = {name: data_folder / f"{name}.jsonl" for name in ("circuit_breaker", "retain")}
    assert _unfinished(config, inputs, runs) == run
    assert _unfinished(config.model_copy(update={"seed": 1}), inputs, runs) is None


def test_a_finished_run_is_left_alone(config: TrainingConfig) -> None:
    run = train(config)
    before = {p: p.stat().st_mtime_ns for p in (run / "adapter").iterdir()}
    assert train(config) == run
    assert {p: p.stat().st_mtime_ns for p in (run / "adapter").iterdir()} == before
    assert read_manifest(run)["status"] == "complete"


def test_other_settings_in_the_same_folder_are_refused(config: TrainingConfig) -> None:
    train(config)
    with pytest.raises(MmcbError, match="seed"):
        train(config.model_copy(update={"seed": 1}))


def test_a_merge_that_was_killed_is_made_again(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(model: Any, path: Path, **_: Any) -> None:
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    assert config.out is not None
    config = config.model_copy(update={"merge": True})
    with monkeypatch.context() as patched:
        patched.setattr("mmcb.models.export.save_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert not (config.out / "merged").exists()
    train(config)
    load_model(str(config.out / "merged"))
    assert not (config.out / ".merged").exists()


def test_a_folder_that_cannot_be_written_is_a_sentence(
    config: TrainingConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MmcbError, match="cannot write to the folder"):
        train(config.model_copy(update={"out": tmp_path / "file" / "run"}))


def test_two_processes_in_one_folder_are_refused(config: TrainingConfig) -> None:
    assert config.out is not None
    with locked(config.out), pytest.raises(MmcbError, match="another process"):
        train(config)


def test_not_a_number_stops_the_run(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmcb.training import objective

    real = objective.reroute_loss
    monkeypatch.setattr(
        objective, "reroute_loss", lambda *args, **tokens: real(*args, **tokens) * math.nan
    )
    with pytest.raises(MmcbError, match=r"step 1: .*reroute_loss.* not finite"):
        train(config)
    assert config.out is not None
    assert read_manifest(config.out)["status"] == "failed"


def test_the_model_is_looked_for_before_the_data(tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="no-such-model"):
        train(tiny_config(model="no-such-model", data=tmp_path))


def test_cut_metrics_drops_later_and_torn_lines(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    cut_metrics(file, step=2)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


SADDLE: dict[str, Any] = {
    "steps": 60, "validate_every": 0, "checkpoint_every": 100, "lora_layers": (0, 3),
    "learning_rate": 1e-3, "mask": "completion", "retain_mask": "completion",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_escape_leaves_the_saddle_on_every_seed(config: TrainingConfig, seed: int) -> None:
    rows = read_metrics(train(config.model_copy(update={**SADDLE, "seed": seed})))
    assert rows[0]["reroute_cosine"] > 0.999
    assert rows[-1]["reroute_cosine"] < 0.3


def test_without_escape_the_same_recipe_stays_on_the_saddle_and_fails(
    config: TrainingConfig,
) -> None:
    assert config.out is not None
    with pytest.raises(MmcbError, match="has not left its saddle"):
        train(config.model_copy(update={**SADDLE, "escape_steps": 0}))
    assert read_metrics(config.out)[-1]["reroute_cosine"] > 0.99
    assert read_manifest(config.out)["status"] == "failed"
    assert not (config.out / "adapter").exists()


def test_a_run_that_stays_on_the_saddle_says_so(
    config: TrainingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = {"steps": 4, "learning_rate": 1e-6, "escape_steps": 0}
    with caplog.at_level("WARNING", logger="mmcb"):
        train(config.model_copy(update=stuck))
    assert "has not left its saddle" in caplog.text
