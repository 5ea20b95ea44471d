"""How a judge is named on the command line: NAME[:TEMPLATE][=MODEL]. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmcb.generation.protocol import Layout

PROMPTS = Path(__file__).parent / "prompts"


@dataclass(frozen=True, slots=True)
class Prompted:
    """What a model judge consists of.

    Attributes:
        model: hub id of the published judge; None for any chat model, which must be named.
        template: file in prompts/; None where the model's own chat template asks the question.
        parser: name in PARSERS.
        layout: how the prompt is put to the model.
        max_new_tokens: longest answer.
    """

    model: str | None
    template: str | None
    parser: str
    layout: Layout
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class JudgeSpec:
    """A judge's name in the table, with another template or model where the user gave one."""

    name: str
    template: Path | None = None
    model: str | None = None

    def __str__(self) -> str:
        """The judge as the command line names it."""
        template = "" if self.template is None else f":{self.template}"
        return f"{self.name}{template}" + ("" if self.model is None else f"={self.model}")

    def template_file(self, row: Prompted) -> Path:
        """The file that the prompt is in."""
        assert row.template is not None
        return self.template or PROMPTS / row.template


def parse_judge(text: str) -> JudgeSpec:
    """Read NAME[:TEMPLATE][=MODEL]."""
    left, _, model = text.partition("=")
    name, _, template = left.partition(":")
    return JudgeSpec(name, Path(template) if template else None, model or None)
