"""Strength checks: each kind of trouble is found in made-up numbers, and a real run is whole."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmcb.attacks.check.config import CheckConfig
from mmcb.attacks.check.findings import Outcome, findings, verdict
from mmcb.attacks.check.run import run_checks
from mmcb.attacks.pgd import ProjectedGradientDescent
from mmcb.attacks.results import StepReport
from mmcb.run_folder import read_manifest
from tests.attacks.attack_worlds import make_world

FALLING = (tuple(4.0 - 0.35 * step for step in range(11)),) * 4
FLAT = ((4.0,) * 11,) * 4
NORMS = ((0.5,) * 10 + (float("nan"),),) * 4


def outcome(loss: float, reached: int, **changes: object) -> Outcome:
    values = {"start": (4.0,) * 4, "best": (loss,) * 4, "curves": FALLING, "norms": NORMS}
    hits = tuple(row < reached for row in range(4))
    return Outcome(**{**values, "reached": hits, **changes})  # type: ignore[arg-type]


def sound() -> dict[tuple[str, str], Outcome]:
    """A strong attack on a model, and on a defence that it breaks half the time."""
    return {
        ("base", "attack"): outcome(0.5, 4),
        ("base", "unbounded"): outcome(0.1, 4),
        ("base", "restart"): outcome(0.5, 4),
        ("base", "noise"): outcome(4.0, 0),
        ("defended", "attack"): outcome(1.5, 2),
        ("defended", "unbounded"): outcome(0.2, 4),
        ("defended", "restart"): outcome(1.4, 2),
        ("defended", "noise"): outcome(4.0, 0),
        ("defended", "transfer"): outcome(3.0, 0),
    }


def failed(outcomes: dict[tuple[str, str], Outcome]) -> list[str]:
    return [one.name for one in findings(outcomes) if not one.ok]


def test_a_strong_attack_raises_no_suspicion() -> None:
    found = findings(sound())
    assert not failed(sound())
    assert verdict(found) == "gradient masking is not suspected"
    alone = {key: value for key, value in sound().items() if key[0] == "base"}
    assert "no defended model" in verdict(findings(alone))


def test_a_flat_gradient_where_the_target_is_written_is_no_mask() -> None:
    outcomes = sound()
    solved = ((4.0, 1.0, *(0.001,) * 9),) * 4
    flat = ((0.5, 0.5, *(0.0,) * 8, float("nan")),) * 4
    changes = {"curves": solved, "norms": flat, "best": (0.001,) * 4, "reached": (True,) * 4}
    outcomes["defended", "attack"] = replace(outcomes["defended", "attack"], **changes)
    assert not failed(outcomes)


@pytest.mark.parametrize(
    ("key", "changes", "name"),
    [
        (("defended", "transfer"), {"best": (0.5,) * 4}, "transfer does not beat"),
        (("defended", "transfer"), {"reached": (True,) * 3 + (False,)}, "transfer does not beat"),
        (("defended", "attack"), {"norms": ((0.0,) * 10,) * 4}, "gradients are there"),
        (("defended", "attack"), {"curves": FLAT}, "loss falls"),
        (("defended", "unbounded"), {"reached": (False,) * 4}, "epsilon 255/255 succeeds"),
        (
            ("defended", "restart"),
            {"best": (0.1,) * 4, "reached": (True,) * 4},
            "random start changes little",
        ),
    ],
)
def test_every_sign_of_masking_is_one(
    key: tuple[str, str], changes: dict[str, object], name: str
) -> None:
    outcomes = sound()
    outcomes[key] = replace(outcomes[key], **changes)  # type: ignore[arg-type]
    (which,) = failed(outcomes)
    assert name in which
    assert verdict(findings(outcomes)).startswith("gradient masking is suspected")
    assert which in verdict(findings(outcomes))


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        (("base", "unbounded"), {"reached": (True,) * 3 + (False,)}),
        (("base", "attack"), {"curves": FLAT}),
        (("base", "noise"), {"reached": (True,) * 3 + (False,)}),
    ],
)
def test_a_weak_attack_tells_nothing(key: tuple[str, str], changes: dict[str, object]) -> None:
    outcomes = sound()
    outcomes[key] = replace(outcomes[key], **changes)  # type: ignore[arg-type]
    assert "too weak" in verdict(findings(outcomes))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def test_a_run_writes_its_findings_and_resumes(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def config(name: str) -> CheckConfig:
        return CheckConfig(
            adapter=str(world / "runs/training/one"),
            behaviors=world / "behaviors.jsonl",
            num_behaviors=3,
            objective="adaptive",
            steps=4,
            step_size=4 / 255,
            save_every=2,
            device="cpu",
            out=tmp_path / name,
        )

    whole = run_checks(config("whole"))
    result = json.loads((whole / "checks.json").read_text())
    assert result["n"] == 3
    assert set(result["outcomes"]) == {
        *(f"{m}.{v}" for m in ("base", "defended") for v in ("attack", "unbounded", "noise")),
        "base.restart",
        "defended.restart",
        "defended.transfer",
    }
    base = result["outcomes"]
    assert base["base.unbounded"]["loss"] < base["base.attack"]["loss"] < base["base.noise"]["loss"]
    assert len(result["findings"]) == 9
    printed = " ".join(capsys.readouterr().out.split())
    assert result["verdict"] in printed
    assert not (whole / "state").exists()

    step, taken = ProjectedGradientDescent.step, 0

    def interrupted(attack: ProjectedGradientDescent) -> StepReport:
        nonlocal taken
        if taken == 23:
            raise KeyboardInterrupt
        taken += 1
        return step(attack)

    with monkeypatch.context() as patch:
        patch.setattr(ProjectedGradientDescent, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_checks(config("cut"))
    assert read_manifest(tmp_path / "cut")["status"] == "interrupted"
    again = run_checks(config("cut"))
    assert (again / "checks.json").read_bytes() == (whole / "checks.json").read_bytes()
