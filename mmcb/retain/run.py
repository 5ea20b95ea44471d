"""From sources, a synthesis folder and the target's answers to one retain set with its card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mmcb.curation.card import Card, FilterRow, write_card
from mmcb.curation.gallery import write_gallery
from mmcb.curation.overlap import Decontamination
from mmcb.curation.parquet import write_parquet
from mmcb.curation.summary import by_split, counts, summarize
from mmcb.errors import MmcbError
from mmcb.generation.factory import make_generator
from mmcb.generation.protocol import TextGenerator
from mmcb.log import get_logger
from mmcb.record_index import RecordIndex
from mmcb.records import Example
from mmcb.retain.borderline import Answered, answer_borderline, borderline_examples
from mmcb.retain.config import RESUMABLE, RetainConfig
from mmcb.retain.parts import SYNTHESIS_PARTS, Mixer, held_out, source_examples, synthesis_examples
from mmcb.run_folder import RunDir
from mmcb.store import RecordFile, record_id, replace_records, write_atomic

_log = get_logger(__name__)


def make_retain_set(
    config: RetainConfig, *, make: Callable[[str], TextGenerator] | None = None
) -> dict[str, Any]:
    """Write retain.jsonl, report.json, the card and the gallery; the same command goes on.

    Args:
        config: What to mix.
        make: Loads a model; called only when a borderline prompt is not answered yet.

    Returns:
        The report, as in report.json.

    Raises:
        MmcbError: Nothing to mix, or a file that cannot be read.
    """
    make = make or (lambda name: make_generator(config.engine, name))
    inputs = _inputs(config)
    decontamination = Decontamination(config)
    with RunDir.start(
        config.out, command="retain", config=config, inputs=inputs, may_change=RESUMABLE
    ) as run:
        path = run.file("retain.jsonl")
        answers: list[Answered] = []
        if config.borderline:
            answers = answer_borderline(
                config, run.file("answers.jsonl"), decontamination, make=make
            )
        mixer = Mixer(config, decontamination)
        replace_records(path, _mixed(config, mixer, answers, path))
        # By hash, as synthesis does: any part of the file is a fair sample.
        RecordIndex(path, Example).settle(lambda id_: record_id("order", id_))
        examples = RecordFile(path, Example)
        report = _report(config, mixer, examples, answers)
        _show(config, examples, report)
        run.note("report", report)
    return report


def _mixed(
    config: RetainConfig, mixer: Mixer, answers: Sequence[Answered], path: Path
) -> Iterator[Example]:
    """The examples of all parts, one at a time."""
    for source in config.retain_data:
        yield from mixer.take(
            str(source), partial(source_examples, source, config, path), wanted=source.count
        )
    if config.synthesis is not None:
        for name in SYNTHESIS_PARTS:
            read = partial(synthesis_examples, config.synthesis, path, part=name)
            yield from mixer.take(name, read, wanted=getattr(config, name))
    if config.borderline:
        kept = [held_out(example, config) for example in borderline_examples(answers)]
        yield from mixer.take("borderline", lambda: iter(kept), wanted=config.num_borderline)


def _inputs(config: RetainConfig) -> dict[str, Path]:
    files = {
        f"retain_{number}": Path(source.place)
        for number, source in enumerate(config.retain_data, start=1)
        if source.hub is None
    }
    if config.synthesis is not None:
        files["synthesis"] = config.synthesis / "retain.jsonl"
    files |= {f"borderline_{n}": path for n, path in enumerate(config.borderline, start=1)}
    if not files and not config.retain_data:
        raise MmcbError(
            "nothing to make a retain set of",
            hint="give --retain-data, --synthesis or --borderline; --help explains them",
        )
    return files | config.evaluation_files


def _report(
    config: RetainConfig,
    mixer: Mixer,
    examples: RecordFile[Example],
    answers: Sequence[Answered],
) -> dict[str, Any]:
    total = max(1, sum(part.taken for part in mixer.parts))
    return {
        "version": 1,
        "model": config.model,
        "seed": config.seed,
        "retain": {**counts(examples), "by_task": by_split(examples, lambda e: e.task)},
        "parts": [{**asdict(part), "share": round(part.taken / total, 4)} for part in mixer.parts],
        "borderline_answers": dict(Counter(answer.fault or "kept" for answer in answers)),
    }


def _show(config: RetainConfig, examples: RecordFile[Example], report: dict[str, Any]) -> None:
    path = examples.path
    write_atomic(path.with_name("report.json"), json.dumps(report, indent=2) + "\n")
    write_card(path.parent, _card(config, examples, report))
    if config.parquet:
        write_parquet(path, examples)
    if config.gallery:
        index = write_gallery([path], title=f"{path.parent.name}: retain set")
        _log.info("to review by eye: %s", index)
    for part in report["parts"]:
        _log.info("%s: %d (%.1f %%)", part["name"], part["taken"], 100 * part["share"])
    _log.info("%d examples in %s", report["retain"]["total"], path)


def _card(config: RetainConfig, examples: RecordFile[Example], report: dict[str, Any]) -> Card:
    sets = [*config.evaluation_sets, *config.tool_sets]
    overlapping = sum(part["overlapping"] for part in report["parts"])
    parts = ", ".join(f"{p['name']} {p['taken']} ({p['share']:.1%})" for p in report["parts"])
    return Card(
        title="Retain set",
        made_by=f"Made by mmcb, to keep what `{config.model}` can do: {parts}. Seed {config.seed}.",
        command="python -m mmcb.retain",
        sets=(
            summarize(
                examples.path, examples, what="a harmless conversation, or a refusal, to keep"
            ),
        ),
        filters=(
            FilterRow(
                "overlap",
                f"BLEU above {config.max_bleu:g} ({config.max_tool_bleu:g} for"
                f" tools) with {', '.join(file.name for file in sets)}"
                if sets
                else "off",
                overlapping,
                overlapping,
            ),
        ),
        files={"answers.jsonl": "what the target model answered to a borderline prompt"}
        if config.borderline
        else {},
        licences={},
        parquet=config.parquet,
        gallery=config.gallery,
    )
