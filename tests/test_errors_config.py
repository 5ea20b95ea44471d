"""Settings: fractions, immutability, no unknown keys; and the error that users see."""

import pytest
from pydantic import ValidationError

from mmcb.config import Config, UnitFraction, format_fraction, parse_fraction
from mmcb.errors import MmcbError


class Ball(Config):
    epsilon: UnitFraction = 32 / 255
    """The radius,
    in levels.
    """


def test_error_carries_message_and_hint() -> None:
    error = MmcbError("no such model", hint="mmcb demo")
    assert (str(error), error.message, error.hint) == (
        "no such model",
        "no such model",
        "mmcb demo",
    )
    assert MmcbError("only this").hint is None


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.5", 0.5), ("0", 0.0), ("1", 1.0), ("1/2", 0.5)]
)
def test_fractions_are_read(text: str, value: float) -> None:
    assert parse_fraction(text) == value
    assert Ball.model_validate({"epsilon": text}).epsilon == value


@pytest.mark.parametrize("text", ["3", "-0.1", "8/0", "eight", "", "/255", "nan", "256/255"])
def test_what_is_no_unit_fraction_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"fraction|outside"):
        parse_fraction(text)
    with pytest.raises(ValidationError):
        Ball.model_validate({"epsilon": text})


@pytest.mark.parametrize("steps", range(1, 255))
def test_every_pixel_step_survives_writing_and_reading(steps: int) -> None:
    assert format_fraction(steps / 255) == f"{steps}/255"
    assert parse_fraction(format_fraction(steps / 255)) == steps / 255


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5, 0.1, 1 / 3, 1e-12])
def test_other_numbers_survive_too(value: float) -> None:
    assert parse_fraction(format_fraction(value)) == value


def test_configs_are_frozen_and_closed() -> None:
    ball = Ball()
    with pytest.raises(ValidationError):
        ball.epsilon = 0.1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Ball.model_validate({"eps": 0.1})
    with pytest.raises(ValidationError):
        Ball(epsilon=3)


def test_docstring_under_a_field_is_its_description() -> None:
    assert Ball.model_fields["epsilon"].description == "The radius, in levels."


def test_json_round_trip() -> None:
    ball = Ball(epsilon=7 / 255)
    assert Ball.model_validate_json(ball.model_dump_json()) == ball
