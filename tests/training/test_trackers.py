"""--report-to: TensorBoard for real, the others through accelerate's interface."""

import sys
from pathlib import Path
from typing import Any, ClassVar

import accelerate.tracking
import pytest
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType

from mmcb.errors import MmcbError
from mmcb.training import stepper as stepper_module
from mmcb.training import trackers as trackers_module
from mmcb.training.config import TrainingConfig
from mmcb.training.run import train
from mmcb.training.trainer import read_metrics
from tests.training.helpers import tiny_config


@pytest.fixture
def config(model_folders: dict[str, Path], data_folder: Path, tmp_path: Path) -> TrainingConfig:
    return tiny_config(model=str(model_folders["llm"]), data=data_folder, out=tmp_path / "run")


class Recorder(GeneralTracker):
    """Stands for W&B and trackio: what accelerate would have handed to them."""

    name = "recorder"
    requires_logging_directory = False
    made: ClassVar[list["Recorder"]] = []

    def __init__(self, run_name: str, **kwargs: Any) -> None:
        super().__init__()
        self.project, self.kwargs = run_name, kwargs
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.settings: dict[str, Any] = {}
        self.finished = False
        Recorder.made.append(self)

    @property
    def tracker(self) -> "Recorder":
        return self

    def start(self) -> None:
        if self.kwargs.get("mode") == "refuse":
            raise RuntimeError("no API key")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    names = [LoggerType.WANDB, LoggerType.TRACKIO]
    for name in names:
        monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, str(name), Recorder)
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: names)
    monkeypatch.setattr(trackers_module.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(Recorder, "made", [])
    return Recorder.made


def test_tensorboard_gets_every_number_of_every_row(config: TrainingConfig) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(config.model_copy(update={"report_to": ("tensorboard",)}))
    events = EventAccumulator(str(run / "mmcb"))
    events.Reload()
    rows = read_metrics(run)
    for name in rows[-1].keys() - {"step"}:
        logged = {event.step: event.value for event in events.Scalars(name)}
        # Event files hold single precision.
        wanted = {r["step"]: pytest.approx(r[name], rel=1e-6) for r in rows if name in r}
        assert logged == wanted, name


def test_wandb_and_trackio_get_the_same_through_accelerate(
    config: TrainingConfig, recorders: list[Recorder]
) -> None:
    run = train(config.model_copy(update={"report_to": ("wandb", "trackio")}))
    rows = read_metrics(run)
    assert [recorder.project for recorder in recorders] == ["mmcb", "mmcb"]
    for recorder in recorders:
        assert [step for step, _ in recorder.rows] == [row["step"] for row in rows]
        assert recorder.rows[-1][1]["retain_loss"] == rows[-1]["retain_loss"]
        assert recorder.settings["lora_rank"] == 16
        assert recorder.kwargs["resume"] == "allow"
        assert recorder.finished


def test_a_resumed_run_goes_on_in_the_same_wandb_run(
    config: TrainingConfig, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config.model_copy(update={"report_to": ("wandb",)})
    original = stepper_module.Stepper.queue

    def stopped(self: Any, step: int, passes: Any, **settings: Any) -> Any:
        if step == 4:
            raise KeyboardInterrupt
        return original(self, step, passes, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(stepper_module.Stepper, "queue", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(wanted)
    assert recorders[0].finished
    train(wanted)
    first, second = recorders
    assert first.kwargs["id"] == second.kwargs["id"]
    assert [step for step, _ in second.rows] == [3, 4]


def test_a_tracker_that_does_not_start_is_one_sentence(
    config: TrainingConfig, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers_module, "_init_kwargs", lambda run: {"wandb": {"mode": "refuse"}})
    with pytest.raises(MmcbError, match="--report-to wandb does not start: no API key"):
        train(config.model_copy(update={"report_to": ("wandb",)}))


def test_a_missing_package_is_said_before_anything_is_done(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(trackers_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MmcbError, match="the package wandb is not installed") as error:
        train(config.model_copy(update={"report_to": ("wandb",)}))
    assert "pip install wandb" in str(error.value.hint)
    assert config.out is not None
    assert not config.out.exists()


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ValueError, match="report_to"):
        tiny_config(report_to=("comet",))
