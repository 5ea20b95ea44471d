"""What came of a synthesis: report.json, the folder's README.md, and a few lines on the screen.

All counts are taken from the records themselves, so they hold however often the work was cut short.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from typing import Any

from mmcb.curation.card import Card, FilterRow, write_card
from mmcb.curation.config import FilterConfig, OverlapConfig
from mmcb.curation.summary import by_split, count, counts, distinct, nested, summarize
from mmcb.log import get_logger
from mmcb.records import Caption
from mmcb.store import write_atomic
from mmcb.synthesis.categories import Taxonomy
from mmcb.synthesis.config import SynthesisConfig
from mmcb.synthesis.files import SetFiles
from mmcb.synthesis.filters import Reason

_log = get_logger(__name__)

_WHAT = {
    "circuit_breaker": "a harmful query about an image and its harmful completion",
    "retain": "a harmless conversation, or a refusal, to keep",
}
_FILES = {
    "captions.jsonl": "what an image shows, in words",
    "dropped.jsonl": "an example that could not be made, with the reason of every attempt",
    "skipped.jsonl": "an image that was left out or converted, with the reason",
    "report.json": "counts of all of these",
}


def build_report(
    files: SetFiles, *, captions: Iterable[Caption], taxonomy: Taxonomy
) -> dict[str, Any]:
    """Count what there is, by category, split and task, and why the rest is not there.

    Args:
        files: The folder's records.
        captions: What the sets were made from, those of an image beside each other.
        taxonomy: The categories of harm.
    """
    config = files.config
    dropped = Counter((str(d.task), d.reasons[-1]) for d in files.all_dropped)
    rejected = Counter(_rejected(files))
    examples, retain = files.examples, files.retained
    return {
        "version": 1,
        "coco_root": str(config.coco_root),
        "model": config.model,
        "writer": config.writer,
        "seed": config.seed,
        "taxonomy": {
            "name": taxonomy.name,
            "train": [category.name for category in taxonomy.train],
            "heldout": [category.name for category in taxonomy.heldout],
            "maps_to": {c.name: c.maps_to for c in taxonomy.categories if c.maps_to},
        },
        "num_examples": config.num_examples,
        "captions": {
            "total": sum(1 for _ in captions),
            "images": licences(captions).total(),
            "by_generator": count(caption.provenance.generator for caption in captions),
        },
        "circuit_breaker": {
            **counts(examples),
            "by_category": by_split(examples, lambda example: str(example.category)),
            "distinct_queries": distinct(e.prompt_messages[-1].content for e in examples),
        },
        "retain": {**counts(retain), "by_task": by_split(retain, lambda e: e.task)},
        "dropped": {"total": dropped.total(), "by_task": nested(dropped)},
        "rejected_attempts": nested(rejected),
        "filters": _filters(config, rejected, dropped),
    }


def licences(captions: Iterable[Caption]) -> Counter[int | None]:
    """Images by COCO's licence number; the captions of an image stand beside each other."""
    images = groupby(captions, key=lambda caption: (caption.image, caption.license))
    return Counter(license_ for (_, license_), _ in images)


def _filters(
    config: SynthesisConfig,
    rejected: Mapping[tuple[str, str], int],
    dropped: Mapping[tuple[str, str], int],
) -> dict[str, Any]:
    """Each filter with its setting, the answers that it refused, the examples lost to it."""
    settings: dict[Reason, object] = {
        "refused": config.drop_refused,
        "ungrounded": config.drop_ungrounded,
        "length": _length(config),
        "language": config.language,
        "copied": _copied(config),
        "overlap": _overlap(config),
        "duplicate": config.near_duplicates,
        "harmless": config.harm_judge,
    }
    return {
        reason: {
            "setting": setting,
            "answers": sum(n for (_, why), n in rejected.items() if why == reason),
            "examples": sum(n for (_, why), n in dropped.items() if why == reason),
        }
        for reason, setting in settings.items()
    }


def _length(filters: FilterConfig) -> str | None:
    told = {"query": filters.query_words, "completion": filters.completion_words}
    parts = [f"{name} {words[0]} to {words[1]} words" for name, words in told.items() if words]
    return ", ".join(parts) or None


def _copied(config: SynthesisConfig) -> str | None:
    if config.few_shot is None or config.max_shot_bleu is None:
        return None
    return f"BLEU above {config.max_shot_bleu:g} with {config.few_shot.name}"


def _overlap(overlap: OverlapConfig) -> str | None:
    told = [
        (overlap.max_bleu, overlap.evaluation_sets),
        (overlap.max_tool_bleu, overlap.tool_sets),
    ]
    parts = [
        f"BLEU above {limit:g} with {', '.join(path.name for path in paths)}"
        for limit, paths in told
        if paths
    ]
    return "; ".join(parts) or None


def write_report(
    files: SetFiles,
    report: dict[str, Any],
    *,
    captions: Iterable[Caption],
    taxonomy: Taxonomy,
    licence_names: Mapping[int, str],
) -> None:
    """Write report.json and the card, README.md.

    Args:
        files: The folder's records.
        report: What `build_report` counted.
        captions: What the sets were made from, those of an image beside each other.
        taxonomy: The categories of harm.
        licence_names: What the annotation files call the licences, by number.
    """
    write_atomic(files.folder / "report.json", json.dumps(report, indent=2) + "\n")
    config = files.config
    card = Card(
        title="Circuit-breaker set and retain set",
        made_by=(
            f"Made by mmcb from the images in `{config.coco_root}`: target model `{config.model}`,"
            f" writer `{config.writer}`, taxonomy `{taxonomy.name}`, seed {config.seed}."
        ),
        command="python -m mmcb.synthesis",
        sets=tuple(
            summarize(records.path, records, what=_WHAT[records.path.stem])
            for records in (files.examples, files.retained)
        ),
        filters=tuple(
            FilterRow(name, _in_words(row["setting"]), row["answers"], row["examples"])
            for name, row in report["filters"].items()
        ),
        files=_FILES,
        licences=licences(captions),
        licence_names=licence_names,
        heldout=tuple(category.name for category in taxonomy.heldout),
        mapping={c.name: c.maps_to for c in taxonomy.categories if c.maps_to},
        fictional=taxonomy.name == "miniature",
        parquet=config.parquet,
        gallery=config.gallery,
    )
    write_card(files.folder, card)


def _in_words(setting: object) -> str:
    if setting is None or setting is False:
        return "off"
    return "on" if setting is True else str(setting)


def tell(report: dict[str, Any], *, files: SetFiles) -> None:
    """Say in a few lines what there is now."""
    for name in ("circuit_breaker", "retain"):
        part = report[name]
        splits = part["by_split"]
        _log.info(
            "%s: %d examples (%d train, %d held out; %d with an image, %d text-only) in %s",
            name, part["total"], splits.get("train", 0), splits.get("heldout", 0),
            part["with_image"], part["text_only"], files.folder / f"{name}.jsonl",
        )  # fmt: skip
    for task, reasons in report["dropped"]["by_task"].items():
        told = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        _log.info("dropped %s: %s", task, told)
    if report["circuit_breaker"]["by_split"].get("train", 0) == 0:
        _log.warning(
            "no circuit-breaker example for training: %s wrote nothing usable; see %s, or try "
            "another --writer",
            report["writer"], files.dropped,
        )  # fmt: skip
    wanted, total = report["num_examples"], report["circuit_breaker"]["total"]
    if wanted is not None and total < wanted:
        _log.warning(
            "only %d of the %d examples asked for survived the filters: raise --num-images or "
            "--queries-per-caption; the same command then goes on",
            total, wanted,
        )  # fmt: skip


def _rejected(files: SetFiles) -> Iterator[tuple[str, str]]:
    """Every answer that was not taken, as (task, reason): also of what succeeded later."""
    for example in chain(files.examples, files.retained):
        for reason in str(example.provenance.settings.get("rejected", "")).split():
            yield example.task, reason
    for dropped in files.all_dropped:
        for reason in dropped.reasons:
            yield dropped.task, reason
