"""Configuration of `python -m mmcb.suite`. Imports no torch: `--help` is instant."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mmcb.config import Config
from mmcb.models.families import FAMILIES

COMMAND = "suite"
"""The command's name in manifests and the folder of its runs."""

_DATA = Path("data/miniature/evaluation")


class SuiteConfig(Config):
    """Run every attack of a suite, then judge all of them and report."""

    suite: str = "published"
    """A suite of the package (miniature, published), or a TOML file of your own."""

    model: str = "tiny-llava-next"
    """Model to attack: a family's name, a hub id or a folder with a checkpoint."""

    adapter: str = "newest"
    """Adapter of the defended model: a training run or adapter folder, "newest" (the newest
    finished training run of this model), or "none" (the base model alone)."""

    behaviors: Path | None = None
    """Behaviors with an image (Behavior records)."""

    text_behaviors: Path | None = None
    """Behaviors without an image; attacked by every command if the model takes no images."""

    tasks: Path | None = None
    """Capability and over-refusal items (Task records)."""

    cases: tuple[Path, ...] = ()
    """Test cases made by others: HarmBench's JSON, with pictures or without, or JailbreakBench's
    artifacts (default: the suite's)."""

    translations: Path | None = None
    """Translated requests: a JSON object, behavior id -> language -> prompt (default: the
    suite's)."""

    scripts: Path | None = None
    """Conversations of several turns (default: the suite's)."""

    judges: tuple[str, ...] = ()
    """Judges of harm, as mmcb.evaluation takes them (default: the suite's, else the model's)."""

    only: tuple[str, ...] = ()
    """Run only these attacks of the suite (default: all)."""

    num_behaviors: int | None = Field(default=None, ge=1)
    """No attack takes more behaviors than this: for a quick look (a universal picture needs 4)."""

    jobs: int = Field(default=1, ge=1)
    """Attacks at once, each in a process of its own with its share of the cores."""

    seed: int = 0
    """Seed of every attack and of sampling."""

    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps, ..."""

    out: Path | None = None
    """Folder of the run (default: runs/suite/SUITE-MODEL). The same folder again resumes."""


def preset(model: str) -> SuiteConfig:
    """The settings that suit a model: for a shipped one, the miniature world and its suite."""
    family = FAMILIES.get(model)
    if family is None or family.local_path is None:
        return SuiteConfig(model=model)
    return SuiteConfig(
        suite="miniature",
        model=model,
        behaviors=_DATA / "behaviors.jsonl" if family.kind == "vlm" else None,
        text_behaviors=_DATA / "text_behaviors.jsonl",
        tasks=_DATA / "tasks.jsonl",
        jobs=2,
    )
