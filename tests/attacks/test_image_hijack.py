"""The image hijack command on a random LLaVA-NeXT with a random adapter."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.run import run_image_hijack
from mmcb.attacks.image_hijack.subjects import read_levels
from mmcb.attacks.ledger import LossCurve
from mmcb.attacks.pgd import ProjectedGradientDescent
from mmcb.attacks.results import StepReport
from mmcb.errors import MmcbError
from mmcb.models.chat import num_image_tokens
from mmcb.models.loading import LoadedModel
from mmcb.records import Attempt, Behavior
from mmcb.run_folder import read_manifest
from mmcb.store import RecordWriter, read_records
from tests.attacks.attack_worlds import make_world
from tests.tiny_models import make_tiny_llm

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def inside(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    return world


def settings(world: Path, **changes: object) -> ImageHijackConfig:
    values = {"behaviors": world / "behaviors.jsonl", "steps": 6, "step_size": 4 / 255}
    values |= {"batch_size": 2, "save_every": 2, "device": "cpu"}
    return ImageHijackConfig(**{**values, **changes})  # type: ignore[arg-type]


def attempts_of(run: Path) -> dict[tuple[str, str], Attempt]:
    attempts = list(read_records(run / "attempts.jsonl", Attempt))
    found = {(attempt.behavior_id, attempt.model): attempt for attempt in attempts}
    assert len(found) == len(attempts)
    return found


def test_attacks_both_models_and_measures_the_saved_png(inside: Path, tmp_path: Path) -> None:
    run = run_image_hijack(settings(inside, out=tmp_path / "run"))
    attempts = attempts_of(run)
    curves = {curve.id: curve for curve in read_records(run / "curves.jsonl", LossCurve)}
    assert set(attempts) == {(f"b{i}", m) for i in range(4) for m in ("base", "defended")}
    assert set(curves) == {attempt.id for attempt in attempts.values()}
    for (behavior, model), attempt in attempts.items():
        measures, curve = attempt.measures, curves[attempt.id]
        assert attempt.image == f"images/{model}/{behavior}.png"
        hijacked = read_levels(run / attempt.image).int()
        clean = read_levels(run / f"images/clean/{behavior}.png").int()
        original = read_levels(inside / f"pictures/{behavior[1:]}.png").int()
        assert torch.equal(clean, original)
        assert int((hijacked - clean).abs().max()) == measures["linf_levels"] <= 32
        assert measures["loss_png"] == pytest.approx(measures["loss_float"], abs=1e-3)
        assert measures["loss_float"] == pytest.approx(min(curve.losses), abs=1e-5)  # type: ignore[type-var]
        assert measures["loss_start"] == pytest.approx(curve.losses[0], abs=1e-5)
        assert measures["loss_float"] < measures["loss_start"]
        assert len(curve.losses) == 7
        assert measures["passes"] == 6
        assert attempt.settings["epsilon"] == pytest.approx(32 / 255)
        expected = {"torch", "transformers", "torchvision", "pillow", "image_backend", "device"}
        assert expected <= attempt.settings.keys()
    # The base is attacked without the adapter, the defended model with it.
    assert all(
        attempts[f"b{i}", "base"].measures["loss_start"]
        != pytest.approx(attempts[f"b{i}", "defended"].measures["loss_start"], abs=1e-3)
        for i in range(4)
    )
    alone = run_image_hijack(
        settings(inside, out=tmp_path / "alone", model=str(inside / "model"), adapter="none")
    )
    base = attempts_of(alone)
    assert {model for _, model in base} == {"base"}
    for key, attempt in base.items():
        assert attempt.measures == pytest.approx(attempts[key].measures, abs=1e-4)
    assert read_manifest(run)["status"] == "complete"
    assert not (run / "state").exists()


def test_a_second_run_in_the_same_folder_does_nothing_twice(inside: Path, tmp_path: Path) -> None:
    config = settings(inside, out=tmp_path / "run", num_behaviors=2, steps=2)
    run = run_image_hijack(config)
    before = (run / "attempts.jsonl").read_bytes()
    run_image_hijack(config)
    assert (run / "attempts.jsonl").read_bytes() == before
    run_image_hijack(config.model_copy(update={"num_behaviors": 3}))
    assert (run / "attempts.jsonl").read_bytes().startswith(before)
    assert len(attempts_of(run)) == 6
    with pytest.raises(MmcbError, match="other settings"):
        run_image_hijack(config.model_copy(update={"epsilon": 8 / 255}))


RESTARTS = {"momentum": 0.9, "restarts": 2, "steps": 3, "num_behaviors": 3}


@pytest.fixture(scope="module")
def uninterrupted(world: Path) -> Path:
    adapter = world / "runs/training/one"
    return run_image_hijack(settings(world, out=world / "whole", adapter=str(adapter), **RESTARTS))


@pytest.mark.parametrize("stop_at", [3, 19])
def test_interrupted_in_the_middle_equals_uninterrupted(
    world: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: int,
) -> None:
    config = settings(
        world, out=tmp_path / "cut", adapter=str(world / "runs/training/one"), **RESTARTS
    )
    step = ProjectedGradientDescent.step
    taken = 0

    def interrupted(attack: ProjectedGradientDescent) -> StepReport:
        nonlocal taken
        if taken == stop_at:
            raise KeyboardInterrupt
        taken += 1
        return step(attack)

    monkeypatch.setattr(ProjectedGradientDescent, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_image_hijack(config)
    assert read_manifest(tmp_path / "cut")["status"] == "interrupted"
    assert list((tmp_path / "cut/state").iterdir())
    redone = 0

    def counted(attack: ProjectedGradientDescent) -> StepReport:
        nonlocal redone
        redone += 1
        return step(attack)

    monkeypatch.setattr(ProjectedGradientDescent, "step", counted)
    cut = run_image_hijack(config)
    # 2 batches x 2 models x 8 evaluations; at most save_every - 1 were lost.
    assert 32 - stop_at <= redone <= 32 - stop_at + 1
    for name in ("attempts.jsonl", "curves.jsonl"):
        assert (cut / name).read_bytes() == (uninterrupted / name).read_bytes()
    for picture in sorted((uninterrupted / "images").rglob("*.png")):
        other = cut / picture.relative_to(uninterrupted)
        assert other.read_bytes() == picture.read_bytes()


def test_an_unfinished_default_run_is_resumed_a_finished_one_is_not(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(inside, num_behaviors=1, steps=3, target_models="defended")

    def interrupted(attack: ProjectedGradientDescent) -> StepReport:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProjectedGradientDescent, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_image_hijack(config)
    (folder,) = (inside / "runs" / ImageHijackConfig.command).iterdir()
    assert run_image_hijack(config).resolve() == folder
    assert set(attempts_of(folder)) == {("b0", "defended")}
    name = "mmcb.attacks.start.timestamp"
    monkeypatch.setattr(name, lambda: "later")
    assert run_image_hijack(config).resolve() != folder


def test_photographs_replace_the_pictures_and_bad_ones_cost_no_behavior(
    inside: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "0.jpg").write_bytes(b"")
    (photos / "1.jpg").write_bytes(b"no picture")
    rng = np.random.default_rng(1)
    gray = Image.fromarray(rng.integers(0, 256, (70, 90), dtype=np.uint8))
    gray.convert("L").save(photos / "2.jpg")
    gray.convert("CMYK").save(photos / "3.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    gray.resize((300, 60)).save(photos / "4.jpg", exif=exif)
    config = settings(inside, out=tmp_path / "run", image_folder=photos, num_behaviors=3)
    run = run_image_hijack(
        config.model_copy(update={"max_side": 128, "steps": 2, "target_models": "base"})
    )
    attempts = attempts_of(run)
    assert [attempt.settings["source"] for attempt in attempts.values()] == [
        "2.jpg",
        "3.jpg",
        "4.jpg",
    ]
    size = {b: (a.measures["height"], a.measures["width"]) for (b, _), a in attempts.items()}
    assert size == {"b0": (70, 90), "b1": (70, 90), "b2": (128, 26)}


def test_too_few_photographs_are_told_and_other_ones_are_other_attacks(
    inside: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = []
    for folder, gray in (("a", 90), ("b", 160)):
        (tmp_path / folder).mkdir()
        Image.new("L", (90, 70), gray).save(tmp_path / folder / "photo.png")
        config = settings(inside, out=tmp_path / f"run-{folder}", image_folder=tmp_path / folder)
        with caplog.at_level("WARNING", logger="mmcb"):
            run = run_image_hijack(config.model_copy(update={"steps": 1, "target_models": "base"}))
        assert "holds 1 pictures for 4 behaviors" in caplog.text
        found += attempts_of(run).values()
    # The photographs have the same name: the evaluation tells attacks apart by their ids.
    assert len({attempt.id for attempt in found}) == len(found) == 2


def test_pictures_that_do_not_open_or_fit_are_listed(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(loaded: LoadedModel, size: tuple[int, int]) -> int:
        if size == (1, 256):
            raise MmcbError("too thin")
        return num_image_tokens(loaded, size)

    monkeypatch.setattr("mmcb.attacks.image_hijack.run.num_image_tokens", count)
    behaviors = list(read_records(inside / "behaviors.jsonl", Behavior))
    Image.new("RGB", (256, 1)).save(tmp_path / "thin.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "good.png").write_bytes((inside / "pictures/0.png").read_bytes())
    with RecordWriter(tmp_path / "behaviors.jsonl", Behavior) as writer:
        for behavior, name in zip(behaviors, ("thin", "good", "empty"), strict=False):
            writer.write([behavior.model_copy(update={"image": f"{name}.png"})])
    config = settings(inside, out=tmp_path / "run", behaviors=tmp_path / "behaviors.jsonl", steps=1)
    run = run_image_hijack(config.model_copy(update={"target_models": "base"}))
    assert set(attempts_of(run)) == {("b1", "base")}
    skipped = read_manifest(run)["skipped"]
    assert {Path(one["image"]).name for one in skipped} == {"thin.png", "empty.png"}


def test_stop_loss_saves_passes(inside: Path, tmp_path: Path) -> None:
    config = settings(inside, out=tmp_path / "run", stop_loss=50.0, target_models="base")
    run = run_image_hijack(config)
    for attempt in attempts_of(run).values():
        assert attempt.measures["passes"] == 1
        assert attempt.measures["stopped_step"] == 0
        assert attempt.measures["linf_levels"] == 0


def _cli(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mmcb.attacks.image_hijack", *args]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_mistakes_are_one_sentence_with_exit_code_2(world: Path, tmp_path: Path) -> None:
    model = str(world / "model")
    llm = str(make_tiny_llm(tmp_path / "llm"))
    cases: list[tuple[list[str], str, str]] = [
        ([], "no finished training run", "python -m mmcb.training --model"),
        (["--model", model], f"no finished training run of {model}", "--adapter none"),
        (["--adapter", "nowhere"], "nowhere holds no adapter", "--adapter"),
        (["--model", model, "--adapter", "none"], "no behaviors to attack", "--behaviors FILE"),
        (["--adapter", "none", "--target-models", "defended"], "no defended model", "base"),
        (["--model", "tiny-lava-next"], "tiny-lava-next", "tiny-llava-next"),
        (["--model", llm, "--adapter", "none"], "takes no images", "tiny-llava-next"),
    ]
    for args, message, hint in cases:
        done = _cli(*args, cwd=tmp_path)
        assert done.returncode == 2, (args, done.stderr)
        error, advice = done.stderr.strip().splitlines()
        assert error.startswith("error: "), args
        assert message in error, args
        assert hint in advice, args
        assert done.stdout == ""


def _wait(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.02)


def test_killed_and_started_again(world: Path, tmp_path: Path) -> None:
    def config(out: str) -> ImageHijackConfig:
        adapter = str(world / "runs/training/one")
        changes = {"adapter": adapter, "num_behaviors": 2, "steps": 20, "save_every": 1}
        return settings(world, out=tmp_path / out, **changes)

    whole = run_image_hijack(config("whole"))
    (tmp_path / "cut.json").write_text(config("cut").model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "mmcb.attacks.image_hijack", "--config", tmp_path / "cut.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    cut = tmp_path / "cut"
    _wait(lambda: bool(list(cut.glob("state/*.safetensors"))), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert read_manifest(cut)["status"] == "started"
    run_image_hijack(config("cut"))
    assert read_manifest(cut)["status"] == "complete"
    for name in ("attempts.jsonl", "curves.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
