"""The image hijack's other protocols, each run from end to end on a random model."""

from pathlib import Path

import pytest
import torch

from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.presets import PRESETS, Preset
from mmcb.attacks.image_hijack.roles import assign_roles
from mmcb.attacks.image_hijack.run import run_image_hijack
from mmcb.attacks.image_hijack.subjects import read_levels
from mmcb.attacks.image_hijack.targets import check_settings
from mmcb.attacks.ledger import LossCurve
from mmcb.errors import MmcbError
from mmcb.records import Attempt, Behavior
from mmcb.store import read_records
from tests.attacks.attack_worlds import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def run(world: Path, out: Path, **changes: object) -> list[Attempt]:
    values: dict[str, object] = {
        "behaviors": world / "behaviors.jsonl",
        "adapter": str(world / "runs/training/one"),
        "steps": 4,
        "step_size": 4 / 255,
        "num_behaviors": 3,
        "validate_every": 2,
        "device": "cpu",
        "out": out,
    }
    folder = run_image_hijack(ImageHijackConfig(**{**values, **changes}))  # type: ignore[arg-type]
    attempts = list(read_records(folder / "attempts.jsonl", Attempt))
    for attempt in attempts:
        assert attempt.image is not None
        saved, clean = (
            read_levels(folder / path).int()
            for path in (attempt.image, f"images/clean/{Path(attempt.image).name}")
        )
        assert int((saved - clean).abs().max()) == attempt.measures["linf_levels"]
        assert attempt.measures["target_reached"] in (0.0, 1.0)
    return attempts


def test_adaptive_preset_from_the_base_optimum_at_the_whole_answer(
    world: Path, tmp_path: Path
) -> None:
    settings = {**PRESETS["adaptive"], "steps": 4, "target_tokens": 5, "step_size": 4 / 255}
    attempts = run(world, tmp_path / "run", preset="adaptive", **settings)
    by_model = {(a.behavior_id, a.model): a for a in attempts}
    assert len(by_model) == 6
    long = {b.id: b for b in read_records(tmp_path / "run/targets.jsonl", Behavior)}
    short = {b.id: b for b in read_records(world / "behaviors.jsonl", Behavior)}
    curves = {c.id: c.losses for c in read_records(tmp_path / "run/curves.jsonl", LossCurve)}
    for name, behavior in long.items():
        assert behavior.target.startswith(short[name].target)
        assert len(behavior.target) > len(short[name].target)
        base, defended = by_model[name, "base"], by_model[name, "defended"]
        assert (base.measures["passes"], defended.measures["passes"]) == (4, 8)
        assert defended.settings["objective"] == "adaptive"
        assert defended.settings["start"] == "base"
        # The first iterate is the base model's picture, not the clean one.
        first = curves[defended.id][0]
        assert first is not None
        assert abs(first - defended.measures["loss_start"]) > 1e-4
        assert defended.measures["loss_png"] == pytest.approx(
            defended.measures["loss_float"], abs=1e-3
        )
        assert defended.measures["linf_levels"] <= 32


def test_universal_picture_is_tested_on_behaviors_it_was_not_made_with(
    world: Path, tmp_path: Path
) -> None:
    attempts = run(
        world,
        tmp_path / "run",
        universal=True,
        num_behaviors=4,
        batch_size=1,
        test_share=0.5,
        validation_share=0.25,
    )
    config = ImageHijackConfig(universal=True, test_share=0.5, validation_share=0.25)
    behaviors = list(read_records(world / "behaviors.jsonl", Behavior))
    roles = assign_roles(config, behaviors)
    tested = {behavior.id for behavior in roles.test}
    assert {a.behavior_id for a in attempts} == tested
    assert len(attempts) == 2 * len(tested) == 4
    seen = {pair.target for pair in (*roles.train, *roles.validation)}
    assert seen.isdisjoint({behavior.target for behavior in roles.test})
    for attempt in attempts:
        assert attempt.settings["role"] == "test"
        assert attempt.settings["num_train"] == len(roles.train) == 1
        assert attempt.measures["loss_png"] == pytest.approx(
            attempt.measures["loss_float"], abs=1e-3
        )
        assert attempt.measures["passes"] == 4
    assert len({a.image for a in attempts}) == 2
    # The same command again does nothing.
    before = (tmp_path / "run/attempts.jsonl").read_bytes()
    run(
        world,
        tmp_path / "run",
        universal=True,
        num_behaviors=4,
        batch_size=1,
        test_share=0.5,
        validation_share=0.25,
    )
    assert (tmp_path / "run/attempts.jsonl").read_bytes() == before


def test_responses_train_without_a_request(world: Path, tmp_path: Path) -> None:
    file = tmp_path / "responses.txt"
    file.write_text("to zorch it , first grab it\n\nthen twist it\nand zorch on\n" * 2)
    behaviors = list(read_records(world / "behaviors.jsonl", Behavior))
    config = ImageHijackConfig(universal=True, target="responses", responses=file)
    roles = assign_roles(config, behaviors)
    pairs = (*roles.train, *roles.validation)
    assert {pair.prompt for pair in pairs} == {""}
    assert len(pairs) == 3
    attempts = run(
        world,
        tmp_path / "run",
        universal=True,
        target="responses",
        responses=file,
        target_models="base",
    )
    assert attempts
    file.write_text("only one\n")
    with pytest.raises(MmcbError, match="holds 1 responses"):
        assign_roles(config, behaviors)


def test_moving_patch_under_transforms_with_adam(world: Path, tmp_path: Path) -> None:
    attempts = run(
        world,
        tmp_path / "run",
        patch="moving",
        patch_size=0.5,
        epsilon=1.0,
        random_start=True,
        transforms=("jpeg", "noise"),
        transform_samples=2,
        optimizer="adam",
        target_models="base",
        num_behaviors=2,
    )
    plain = run(world, tmp_path / "plain", target_models="base", num_behaviors=2)
    # The loop begins with a gray square; what is reported is the picture's own loss.
    unchanged = {one.behavior_id: one.measures["loss_start"] for one in plain}
    for attempt in attempts:
        assert attempt.measures["loss_start"] == pytest.approx(
            unchanged[attempt.behavior_id], abs=1e-3
        )
        assert attempt.measures["passes"] == 8
        assert attempt.measures["loss_transformed"] > 0
        assert attempt.settings["transforms"] == "jpeg noise"
        assert attempt.settings["patch"] == "moving"
        assert attempt.image is not None
        saved = read_levels(tmp_path / "run" / attempt.image)
        clean = read_levels(tmp_path / f"run/images/clean/{attempt.behavior_id}.png")
        at = (saved != clean).any(dim=0).nonzero()
        assert (at.amax(dim=0) - at.amin(dim=0) < round(0.5 * min(saved.shape[1:]))).all()


def test_model_input_frame_attacks_the_picture_at_the_models_size(
    world: Path, tmp_path: Path
) -> None:
    attempts = run(
        world, tmp_path / "run", frame="model_input", target_models="base", num_behaviors=3
    )
    sizes = {a.behavior_id: (a.measures["height"], a.measures["width"]) for a in attempts}
    # 112 x 56 fills its canvas already; the portrait of 60 x 83 is enlarged to its own.
    assert sizes["b0"] == (56, 112)
    assert sizes["b2"] == (112, 81)
    assert {a.settings["frame"] for a in attempts} == {"model_input"}
    for attempt in attempts:
        assert attempt.measures["loss_png"] == pytest.approx(
            attempt.measures["loss_float"], abs=1e-3
        )


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_settings_that_hold_together(name: Preset) -> None:
    config = ImageHijackConfig(preset=name, **PRESETS[name])
    if config.target == "string":
        with pytest.raises(MmcbError, match="has no string"):
            check_settings(config)
        config = config.model_copy(update={"target_string": "zorch"})
    check_settings(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "responses"}, "one picture for all"),
        ({"target": "completion", "universal": True}, "one picture a behavior"),
        ({"patch": "moving", "start": "base"}, "--patch goes with neither"),
        ({"start": "base", "target_models": "defended"}, "needs the base model's pictures"),
        ({"start": "base", "random_start": True}, "two places to begin at"),
        ({"start": "base", "universal": True}, "one picture a behavior"),
        ({"target_string": "zorch"}, "does nothing with --target behavior"),
        ({"target": "string", "target_string": " "}, "has no string"),
        ({"responses": Path("x.txt")}, "--responses does nothing"),
        ({"image_folder": Path("nowhere")}, "there is no such folder"),
        ({"universal": True, "test_share": 0.6, "validation_share": 0.4}, "no behavior to train"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MmcbError, match=message) as caught:
        check_settings(ImageHijackConfig(**changes))  # type: ignore[arg-type]
    assert caught.value.hint


def test_too_few_behaviors_for_a_universal_picture(world: Path) -> None:
    behaviors = list(read_records(world / "behaviors.jsonl", Behavior))[:2]
    with pytest.raises(MmcbError, match="too few"):
        assign_roles(ImageHijackConfig(universal=True), behaviors)


def test_what_is_tested_is_neither_trained_on_nor_chosen_by_under_another_id() -> None:
    def behavior(index: int) -> Behavior:
        verb, prompt = f"zorch {index % 8}", f"how do i {index % 8} ?" + " now" * (index >= 24)
        return Behavior(
            id=f"b{index}", prompt=prompt, target=verb, category="zorching", split="train"
        )

    # Eight requests, each with three pictures; and all of them once more in other words.
    behaviors = [behavior(index) for index in range(32)]
    roles = assign_roles(ImageHijackConfig(universal=True), behaviors)
    parts = [set(roles.train), set(roles.validation), {(b.prompt, b.target) for b in roles.test}]
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == 16
    assert [len(roles.train), len(roles.validation), len(roles.test)] == [8, 3, 5]
    silent = assign_roles(ImageHijackConfig(universal=True, target="responses"), behaviors)
    parts = [{pair.target for pair in pairs} for pairs in (silent.train, silent.validation)]
    parts.append({behavior.target for behavior in silent.test})
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == 8


def test_an_adaptive_attack_must_know_the_layers(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmcb.attacks.image_hijack.run.rerouted_layers", lambda *_: ())
    with pytest.raises(MmcbError, match="which layers were rerouted"):
        run(world, tmp_path / "run", objective="adaptive")


def test_preset_flags_and_files_in_their_order(tmp_path: Path) -> None:
    from mmcb.cli import parse_config

    def parse(*args: str) -> ImageHijackConfig:
        return parse_config(ImageHijackConfig, args, prog="made-up", protocols=dict(PRESETS))

    assert parse().steps == 100
    paper = parse("--preset", "cb-paper")
    assert (paper.steps, paper.preset) == (1000, "cb-paper")
    assert parse("--preset", "cb-paper", "--steps", "7").steps == 7
    file = tmp_path / "config.json"
    file.write_text(parse("--preset", "qi-universal", "--steps", "9").model_dump_json())
    again = parse("--config", str(file))
    assert (again.steps, again.target, again.preset) == (9, "responses", "qi-universal")
    assert torch.isclose(torch.tensor(again.epsilon), torch.tensor(32 / 255))
