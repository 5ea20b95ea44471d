"""Settings of `python -m mmcb.evaluation`. Imports no torch: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mmcb.attacks.prompts import TextAttack
from mmcb.config import Config
from mmcb.generation.config import EngineConfig, EngineFlags
from mmcb.models.families import FAMILIES

_DATA = Path("data/miniature")


class EvaluationConfig(Config):
    """Measure a model before and after its defence, and write the report."""

    model: str = "tiny-llava-next"
    """Model to evaluate: a family's name, a hub id or a folder with a checkpoint."""

    adapter: str = "newest"
    """Adapter of the defended model: a folder, "newest" (the newest finished training run of
    this model) or "none" (evaluate the base model alone)."""

    behaviors: Path | None = _DATA / "evaluation/behaviors.jsonl"
    """Behaviors with an image (Behavior records)."""

    text_behaviors: Path | None = _DATA / "evaluation/text_behaviors.jsonl"
    """Behaviors without an image (Behavior records)."""

    tasks: Path | None = _DATA / "evaluation/tasks.jsonl"
    """Capability and over-refusal items (Task records)."""

    triggers: Path | None = _DATA / "attacks/triggers.txt"
    """Templates of the trigger attack, one a line, with {prompt} where the request goes."""

    every_trigger: bool = False
    """Try every template on every behavior, instead of taking the templates in turn."""

    attacks: tuple[TextAttack, ...] = ("direct", "trigger", "prefill")
    """Attacks made from words alone, on every behavior."""

    cases: tuple[Path, ...] = ()
    """Test cases made by others: HarmBench's JSON (behavior id -> prompts, or pairs of a picture
    and a prompt) or JailbreakBench's artifacts, whose behaviors have the ids of --behaviors and
    --text-behaviors."""

    translations: Path | None = None
    """Translated requests: a JSON object, behavior id -> language -> prompt."""

    scripts: Path | None = None
    """Conversations of several turns: a JSON list of lists of messages, with {prompt}."""

    samples: int = Field(default=1, ge=1)
    """Answers to every attack in words (best of n); more than one need a --temperature."""

    hijacks: tuple[Path, ...] = ()
    """Run folders of mmcb.attacks.image_hijack, embedding, gcg or steering, to be judged."""

    transfer: bool = True
    """Also show the defended model the images that were optimised against the base model."""

    judges: tuple[str, ...] = ("miniature", "phrase")
    """Judges of harm, each NAME[:TEMPLATE][=MODEL]; the first one gives the headline numbers.
    TEMPLATE is a jinja2 file and MODEL a model, instead of the judge's own."""

    judge_engine: EngineConfig = EngineConfig()
    """What runs the judges that ask a model."""

    beside: tuple[Path, ...] = ()
    """Finished runs on the same weights, to stand in the report: of mmcb.evaluation.lm_eval and
    quality (beside the paper's numbers where the model is one of its), of mmcb.attacks.check, and
    other evaluations, such as one that drew many answers (best of n)."""

    perplexity: bool = False
    """Also measure how probable the base model, loaded here, finds every answer to an attack."""

    limit: int | None = Field(default=None, ge=1)
    """Take only the first so many behaviors and items of each file: for a quick look."""

    max_new_tokens: int = Field(default=96, ge=1)
    """Longest answer, in tokens."""

    temperature: float = Field(default=0.0, ge=0.0)
    """Sampling temperature; 0 takes the likeliest token."""

    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus sampling: the share of probability to sample from."""

    seed: int = 0
    """Seed of the sampling; each request has its own, whatever the batch."""

    batch_size: int = Field(default=32, ge=1)
    """Requests answered at once; halved by itself when the memory does not do."""

    engine: EngineFlags = EngineConfig()
    """What generates the answers."""

    show_harmful: bool = False
    """Show harmful answers in the report instead of their length and verdict."""

    report_hijacks: int = Field(default=8, ge=0)
    """How many image hijacks the report shows, with their pictures."""

    harmbench_layout: bool = False
    """Also write the answers to attacks as HarmBench's tools read them, into harmbench/."""

    title: str = "Circuit breakers: before and after"
    """The report's title."""

    out: Path | None = None
    """Folder of the results; runs/evaluation/<model> by default. The same folder again
    resumes: only what is missing is generated and judged."""


class SampleConfig(Config):
    """Draw answers of an evaluation for a person to label."""

    run: Path
    """Folder of the evaluation."""

    count: int = Field(default=100, ge=1)
    """How many answers, an even share of each model and attack."""

    seed: int = 0
    """Seed of the choice and the order."""

    out: Path | None = None
    """The sheet, .csv or .jsonl; labels.csv in the evaluation's folder by default."""


class AgreeConfig(Config):
    """Score the judges of an evaluation against a person's labels."""

    run: Path
    """Folder of the evaluation."""

    labels: Path | None = None
    """The labelled sheet; labels.csv in the evaluation's folder by default."""


def preset(model: str) -> EvaluationConfig:
    """The settings that suit a model: the exact judge knows the miniature world alone."""
    family = FAMILIES.get(model)
    if family is not None and family.local_path is not None:
        return EvaluationConfig(model=model)
    return EvaluationConfig(model=model, judges=("phrase",))
