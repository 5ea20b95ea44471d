"""Two processes train what one trains: DDP and FSDP 2, text and images, kills between them.

The processes are real, started by torchrun and `accelerate launch`; they talk by gloo, on the CPU.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mmcb.errors import MmcbError
from mmcb.run_folder import read_manifest
from mmcb.store import locked
from mmcb.training.batches import PixelCache
from mmcb.training.objective import step_totals
from mmcb.training.processes import accelerator_of
from mmcb.training.reroute import Rerouter, add_adapter
from mmcb.training.schedule import Weights
from mmcb.training.trainer import read_metrics
from tests.training import distributed_worker
from tests.training.data import write_refusals
from tests.training.helpers import KINDS, Load, encoded, tiny_config, tiny_recipe

ROOT = Path(__file__).parents[2]
WAYS = {
    "ddp": {"ACCELERATE_USE_FSDP": "false"},
    "fsdp": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
}
"""What `accelerate launch`, and `accelerate launch --use_fsdp --fsdp_version 2`, put into the
environment."""

STOP = 4
"""The step before which a run dies: one row of metrics after its checkpoint of step 2."""

SETTINGS: dict[str, dict[str, Any]] = {
    kind: {"steps": 4, "batch_size": 4, "retain_batch_size": 3, "accumulation": 2} for kind in KINDS
}
COMPAT = {
    "steps": 3, "batch_size": 1, "retain_batch_size": 1, "accumulation": 2, "paper_compat": True,
    "validate_every": 0,
}  # fmt: skip

BRIEF = {"steps": 3, "batch_size": 4, "retain_batch_size": 3, "validate_every": 0}
AIMS: dict[str, tuple[str, dict[str, Any]]] = {
    "refusal": ("vlm", {**BRIEF, "reroute_target": "refusal"}),
    "eos": ("llm", {**BRIEF, "reroute_target": "eos"}),
    "randp": ("llm", {**BRIEF, "reroute_target": "randp"}),
    "start": ("vlm", {**BRIEF, "start_steps": 8, "learning_rate": 1e-5}),
}
"""What processes must find out together before step 1: fixed targets, and the rate of a start."""

Folders = dict[str, Path]


def _launch(launcher: list[str], rest: list[str]) -> tuple[int, str]:
    """Exit status and stderr of a launched command."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE", "FSDP"))}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *rest], env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stderr


class Runs:
    """What one process did, what two did, and what they said."""

    def __init__(self, folder: Path, models: Folders, data: Path) -> None:
        self.folder = folder
        self._models, self._data = models, data
        self._jobs: list[dict[str, Any]] = []
        self._names: list[str] = []

    def alone(self, name: str, kind: str, *, stop_before: int = 0, **settings: Any) -> None:
        """Train in this process."""
        distributed_worker.train(self._config(name, kind, settings), stop_before=stop_before)

    def add(self, name: str, kind: str, way: str, *, stop_before: int = 0, **settings: Any) -> None:
        """Put a run of two processes on the list."""
        config = self._config(name, kind, settings).model_dump(mode="json")
        job = {"settings": config, "environment": WAYS[way], "stop_before": stop_before}
        self._jobs.append(job)
        self._names.append(name)

    def launch(self) -> None:
        """Do what is on the list."""
        file = self.folder / "jobs.json"
        file.write_text(json.dumps(self._jobs))
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        status, errors = _launch(launcher, ["-m", "tests.training.distributed_worker", str(file)])
        assert status == 0, errors

    def told(self, name: str) -> list[str]:
        """What each process held of the model at the end of a run, or why it failed."""
        number = self._names.index(name)
        return [(self.folder / f"{number}-{rank}.txt").read_text() for rank in (0, 1)]

    def _config(self, name: str, kind: str, settings: dict[str, Any]) -> Any:
        return tiny_config(
            model=str(self._models[kind]), data=self._data, out=self.folder / name, **settings
        )


@pytest.fixture(scope="module")
def runs(model_folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All runs of two processes, in one launch."""
    data = write_refusals(tmp_path_factory.mktemp("refusals"))
    runs = Runs(tmp_path_factory.mktemp("runs"), model_folders, data)
    for name, (kind, settings) in AIMS.items():
        runs.alone(f"{name}-one", kind, **settings)
        for way in WAYS:
            runs.add(f"{name}-{way}", kind, way, **settings)
    for kind in KINDS:
        runs.alone(f"{kind}-one", kind, **SETTINGS[kind])
        for way in WAYS:
            runs.add(f"{kind}-{way}", kind, way, memory="24GiB", **SETTINGS[kind])
    runs.alone("llm-ddp-resumed", "llm", stop_before=STOP, **SETTINGS["llm"])
    shutil.copytree(runs.folder / "llm-ddp-resumed", runs.folder / "llm-fsdp-resumed")
    for way in WAYS:
        runs.add(f"llm-{way}-resumed", "llm", way, **SETTINGS["llm"])
        runs.add(f"llm-{way}-begun", "llm", way, stop_before=STOP, **SETTINGS["llm"])
    runs.alone("compat-one", "llm", **COMPAT)
    runs.add("compat-ddp", "llm", "ddp", **COMPAT)
    runs.add("compat-odd", "llm", "ddp", **{**COMPAT, "accumulation": 3})
    runs.add("busy", "llm", "ddp", **SETTINGS["llm"])
    with locked(runs.folder / "busy"):
        runs.launch()
    for way in WAYS:
        runs.alone(f"llm-{way}-begun", "llm", **SETTINGS["llm"])
    return runs


PAIRS = [(f"{kind}-one", f"{kind}-{way}") for kind in KINDS for way in WAYS]
PAIRS += [("llm-one", f"llm-{way}-{part}") for way in WAYS for part in ("resumed", "begun")]
PAIRS += [("compat-one", "compat-ddp")]
PAIRS += [(f"{name}-one", f"{name}-{way}") for name in AIMS for way in WAYS]


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_two_processes_train_what_one_trains(runs: Runs, one: str, two: str) -> None:
    assert read_manifest(runs.folder / two)["status"] == "complete"
    wanted, found = (read_metrics(runs.folder / name) for name in (one, two))
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    for row, expected in zip(found, wanted, strict=True):
        row, expected = ({k: v for k, v in r.items() if k != "seconds"} for r in (row, expected))
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)
    first, second = (
        load_file(runs.folder / name / "adapter" / "adapter_model.safetensors")
        for name in (one, two)
    )
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        # Adam makes steps of like size of all gradients: of those that are nearly 0, too, whose
        # last bits are their first ones.
        assert (tensor - second[name]).norm() < 1e-3 * tensor.norm(), name


@pytest.mark.parametrize("kind", KINDS)
def test_copied_or_sharded_as_launched(runs: Runs, kind: str) -> None:
    copied, sharded = ([int(held) for held in runs.told(f"{kind}-{way}")] for way in WAYS)
    assert copied[0] == copied[1]
    block = 4 * 96 * 96 + 3 * 96 * 192 + 2 * 96
    adapter = 2 * 16 * (4 * (96 + 96) + 3 * (96 + 192))
    assert [copied[0] - held for held in sharded] == [(4 * block + adapter) // 2] * 2


def test_a_checkpoint_is_the_same_file_whatever_the_processes(runs: Runs) -> None:
    files = [
        load_file(runs.folder / name / "checkpoint.safetensors")
        for name in ("llm-one", "llm-ddp", "llm-fsdp")
    ]
    shapes = [{name: tensor.shape for name, tensor in file.items()} for file in files]
    assert shapes[0] == shapes[1] == shapes[2]


def test_the_rate_of_a_start_is_measured_once_for_all(runs: Runs) -> None:
    rates = [
        [row["learning_rate"] for row in read_metrics(runs.folder / name)]
        for name in ("start-one", "start-ddp", "start-fsdp")
    ]
    assert rates[0] == rates[1] == rates[2]
    assert rates[0][0] > 1e-3


def test_all_processes_hear_of_an_error(runs: Runs) -> None:
    assert all("another process is working in" in told for told in runs.told("busy"))
    assert all("3 batches a step cannot be shared" in told for told in runs.told("compat-odd"))


def test_accelerate_launch_and_a_failed_run_says_why_once(
    model_folders: Folders, data_folder: Path, tmp_path: Path
) -> None:
    status, errors = _launch(
        ["accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2"],
        [
            "--num_processes", "2", "-m", "mmcb.training", "--model", str(model_folders["llm"]),
            "--data", str(data_folder), "--out", str(tmp_path / "run"), "--device", "cpu",
            "--steps", "4", "--target-layers", "3", "--lora-layers", "2", "2", "--learning-rate",
            "1e30", "--evaluate", "False",
        ],
    )  # fmt: skip
    assert status != 0
    assert errors.count("error: step 2: ") == 1, errors
    assert errors.count("training data: ") == 1, errors  # the log, too, is the main process's alone
    assert read_manifest(tmp_path / "run")["status"] == "failed"
    assert len(read_metrics(tmp_path / "run")) == 1
    assert not (tmp_path / "run" / "adapter").exists()


@pytest.mark.parametrize(
    "asked",
    [
        {"FSDP_VERSION": "1"},
        {"FSDP_OFFLOAD_PARAMS": "true"},
        {"FSDP_ACTIVATION_CHECKPOINTING": "true"},
        {"ACCELERATE_MIXED_PRECISION": "bf16"},
    ],
)
def test_what_training_does_not_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, str]
) -> None:
    for name, value in {"LOCAL_RANK": "0", **WAYS["fsdp"], **asked}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MmcbError, match="not supported"):
        accelerator_of(tiny_config())


def test_processes_without_work_change_nothing(load: Load, data_folder: Path) -> None:
    loaded = load("vlm")
    recipe = tiny_recipe(loaded, lora_dropout=0.0)
    rerouter = Rerouter(add_adapter(loaded, recipe, seed=0), recipe, seed=0).eval()
    found = encoded(data_folder, loaded, recipe).examples
    step = [found[1], found[-1]]
    totals = step_totals(rerouter.objective, step, batches=1)
    shares = rerouter.objective.deal([step], processes=4)
    assert [len(passes) for passes in shares] == [1, 1, 1, 1]
    sums, weights, pixels = dict[str, float](), Weights(1.0, 1.0, 1.0), PixelCache(loaded)
    for passes in shares:
        outputs = rerouter(rerouter.objective.collate(passes[0][1], pixels=pixels), weights, totals)
        outputs["loss"].backward()
        for name, value in outputs.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
    assert all(p.grad is not None for p in rerouter.parameters() if p.requires_grad)
    whole = rerouter(rerouter.objective.collate(step, pixels=pixels), weights, totals)
    assert sums == pytest.approx({name: float(v.detach()) for name, v in whole.items()}, rel=1e-5)
