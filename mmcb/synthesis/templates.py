"""The writer's prompts: jinja2 templates in files, each with the hash that provenance records."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, StrictUndefined, Template, TemplateError

from mmcb.errors import MmcbError

FOLDER = Path(__file__).parent / "prompts"
PromptKind = Literal["harmful", "benign", "question"]
KINDS: tuple[PromptKind, ...] = ("harmful", "benign", "question")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One template."""

    path: Path
    """Its file."""
    hash: str
    """SHA-256 of its file."""
    template: Template

    @property
    def name(self) -> str:
        """Name of its file."""
        return self.path.name

    def render(self, **variables: str) -> str:
        """The prompt for these variables.

        Raises:
            MmcbError: The template asks for another variable, or fails.
        """
        try:
            return self.template.render(**variables).strip()
        except TemplateError as error:
            raise MmcbError(
                f"prompt template {self.name}: {error}",
                hint=f"it may use: {', '.join(variables)}",
            ) from None


def load_prompts(name: str) -> dict[PromptKind, Prompt]:
    """Read a shipped set of templates (NAME_KIND.j2) or a folder of them (KIND.j2).

    Raises:
        MmcbError: A template is missing or is not jinja2.
    """
    return {kind: _load(_file(name, kind)) for kind in KINDS}


def _file(name: str, kind: PromptKind) -> Path:
    shipped = FOLDER / f"{name}_{kind}.j2"
    path = shipped if shipped.is_file() and Path(name).name == name else Path(name) / f"{kind}.j2"
    if not path.is_file():
        known = sorted({file.stem.rpartition("_")[0] for file in FOLDER.glob("*.j2")})
        raise MmcbError(
            f"no prompt template {path}",
            hint=f"--prompts takes {', '.join(known)}, or a folder with "
            + ", ".join(f"{each}.j2" for each in KINDS),
        )
    return path


def _load(path: Path) -> Prompt:
    source = path.read_bytes()
    # No autoescape: prompts are plain text for a model, not HTML.
    environment = Environment(undefined=StrictUndefined, autoescape=False)
    try:
        template = environment.from_string(source.decode())
    except (TemplateError, UnicodeDecodeError) as error:
        raise MmcbError(f"{path}: not a prompt template: {error}") from None
    return Prompt(path=path, hash=hashlib.sha256(source).hexdigest(), template=template)
