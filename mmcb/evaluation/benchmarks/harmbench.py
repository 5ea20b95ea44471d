"""HarmBench: behaviors of text and of pictures, with their targets.

Source: Mazeika et al. 2024 (arXiv 2402.04249), `data/behavior_datasets/*.csv`,
`data/optimizer_targets/*.json` (BehaviorID -> target), `data/multimodal_behavior_images/`.
A contextual behavior's passage is put before the request, as the model is to read it; a
multimodal behavior's context is the description that HarmBench gives its text-only judge.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmcb.evaluation.benchmarks.config import BenchmarkConfig
from mmcb.evaluation.benchmarks.reading import Placed, json_object, optional, picture
from mmcb.evaluation.judges import CONTEXT_SEPARATOR
from mmcb.records import Behavior
from mmcb.sources.rows import Row, read_rows


def read_text(config: BenchmarkConfig) -> Iterator[Placed]:
    """Standard, contextual and copyright behaviors.

    Raises:
        MmcbError: a column or a target is missing, with file and line.
    """
    targets = _targets(config)
    for row in read_rows(config.source):
        context = optional(row, "ContextString")
        request = row.text("Behavior")
        prompt = request if context is None else f"{context}{CONTEXT_SEPARATOR}{request}"
        yield _placed(config, row, targets, prompt=prompt, context=context)


def read_multimodal(config: BenchmarkConfig) -> Iterator[Placed]:
    """Behaviors about a picture; the redacted description is the judge's context.

    Raises:
        MmcbError: a column, a target or a picture is missing, with file and line.
    """
    targets = _targets(config)
    for row in read_rows(config.source):
        context = optional(row, "RedactedImageDescription") or row.text("ImageDescription")
        image = picture(config, row, row.text("ImageFileName"))
        yield _placed(
            config, row, targets, prompt=row.text("Behavior"), context=context, image=image
        )


def _targets(config: BenchmarkConfig) -> dict[str, str] | None:
    return None if config.targets is None else json_object(config.targets)


def _placed(
    config: BenchmarkConfig,
    row: Row,
    targets: dict[str, str] | None,
    *,
    prompt: str,
    context: str | None,
    image: str | None = None,
) -> Placed:
    name = row.text("BehaviorID")
    target = config.default_target if targets is None else targets.get(name)
    if not isinstance(target, str) or not target.strip():
        raise row.problem(f"BehaviorID {name} has no target in {config.targets}")
    behavior = Behavior(
        id=name,
        prompt=prompt,
        target=target,
        category=row.text("SemanticCategory"),
        split=config.split,
        image=image,
        context=context,
    )
    return Placed(row.where, behavior)
