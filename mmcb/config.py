"""What every command's settings share: frozen, typed, documented, readable as JSON.

A docstring under a field is that field's sentence in `--help`.
"""

import math
from typing import Annotated, Any

import tyro
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Config(BaseModel):
    """Base of every command's settings. Unknown keys are errors; instances never change."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Join the lines of the fields' docstrings: help breaks them where the terminal ends."""
        super().__pydantic_init_subclass__(**kwargs)
        for field in cls.model_fields.values():
            if field.description is not None:
                field.description = " ".join(field.description.split())


def parse_fraction(text: str) -> float:
    """Read `8/255` or `0.5` as a float in [0, 1].

    Raises:
        ValueError: If the text is neither a number nor a fraction, or lies outside [0, 1].
    """
    numerator, slash, denominator = text.partition("/")
    try:
        value = float(numerator) / float(denominator) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not a fraction such as 8/255 or 0.5") from None
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{text} lies outside [0, 1]; write pixel steps as a fraction, 8/255")
    return value


def format_fraction(value: float) -> str:
    """Write a float in [0, 1] as n/255 where it is a whole number of 8-bit steps."""
    steps = value * 255
    if 1 <= round(steps) < 255 and math.isclose(steps, round(steps), rel_tol=0, abs_tol=1e-9):
        return f"{round(steps)}/255"
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _fraction_of(value: Any) -> Any:
    return parse_fraction(value) if isinstance(value, str) else value


UnitFraction = Annotated[
    float,
    Field(ge=0.0, le=1.0),
    BeforeValidator(_fraction_of),
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FRACTION",
        instance_from_str=lambda args: parse_fraction(args[0]),
        is_instance=lambda instance: isinstance(instance, (int, float)),
        str_from_instance=lambda instance: [format_fraction(instance)],
    ),
]
"""A float in [0, 1] that is read from `8/255` or `0.5` and shown as `8/255`."""
