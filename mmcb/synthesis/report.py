"""What came of a synthesis: report.json, the folder's README.md, and a few lines on the screen.

All counts are taken from the records themselves, so they hold however often the work was cut short.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from mmcb.log import get_logger
from mmcb.records import Caption, Example
from mmcb.store import read_records, write_atomic
from mmcb.synthesis.categories import Taxonomy
from mmcb.synthesis.files import SetFiles
from mmcb.synthesis.writer import Dropped

_log = get_logger(__name__)

_README = """\
---
configs:
- config_name: circuit_breaker
  data_files: circuit_breaker.jsonl
- config_name: retain
  data_files: retain.jsonl
---

# Circuit-breaker set and retain set

Made by mmcb from the images in `{coco_root}` (target model `{model}`, writer `{writer}`, taxonomy
`{taxonomy}`): {circuit_breaker} circuit-breaker examples and {retain} retain examples.

## Handling

**`circuit_breaker.jsonl` and `dropped.jsonl` may hold harmful text**, written by an uncensored
model on purpose: it is what the defended model learns to stop at. The folder exists to train and
test that defence.

- Do not publish these two files, and do not put them where a crawler or another training run finds
  them.
- Do not train a model to produce them; training on `circuit_breaker.jsonl` by the ordinary
  language-model loss would do so.
- Give them only to people who need them for this work and know what is in them.
- The images stay where they are: records name them by relative path. Each is under its own licence
  (`license` in `captions.jsonl` is COCO's number; COCO's annotation files explain the numbers).
{fictional}
## Files

| file | one line is |
|---|---|
| `captions.jsonl` | what an image shows, in words |
| `circuit_breaker.jsonl` | a harmful query about an image and its harmful completion |
| `retain.jsonl` | a harmless conversation, or a refusal, to keep |
| `dropped.jsonl` | an example that could not be made, with the reason of every attempt |
| `skipped.jsonl` | an image that was left out or converted, with the reason |
| `report.json` | counts of all of these |

Records with `"split": "heldout"` are not for training: their images, and {num_heldout} whole harm
categories ({heldout}), appear in no training record.

    datasets.load_dataset("json", data_files="retain.jsonl")
"""

_FICTIONAL = """\
- In this folder the harm is fictional: invented words for invented acts, which hurt nobody.
"""


def build_report(
    files: SetFiles,
    examples: Sequence[Example],
    retain: Sequence[Example],
    *,
    captions: Sequence[Caption],
    taxonomy: Taxonomy,
) -> dict[str, Any]:
    """Count what there is, by category, split and task, and why the rest is not there."""
    dropped = list(read_records(files.dropped, Dropped))
    config = files.config
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
        },
        "captions": {
            "total": len(captions),
            "images": len({caption.image for caption in captions}),
            "by_generator": _count(caption.provenance.generator for caption in captions),
        },
        "circuit_breaker": {
            **_counts(examples),
            "by_category": _by_split(examples, lambda example: str(example.category)),
            "distinct_queries": len({e.prompt_messages[-1].content for e in examples}),
        },
        "retain": {**_counts(retain), "by_task": _by_split(retain, lambda e: e.task)},
        "dropped": {
            "total": len(dropped),
            "by_task": _nested((d.task, d.reasons[-1]) for d in dropped),
        },
        "rejected_attempts": _nested(_rejected([*examples, *retain], dropped)),
    }


def write_report(files: SetFiles, report: dict[str, Any]) -> None:
    """Write report.json and README.md."""
    write_atomic(files.folder / "report.json", json.dumps(report, indent=2) + "\n")
    taxonomy = report["taxonomy"]
    readme = _README.format(
        coco_root=report["coco_root"],
        model=report["model"],
        writer=report["writer"],
        taxonomy=taxonomy["name"],
        circuit_breaker=report["circuit_breaker"]["total"],
        retain=report["retain"]["total"],
        heldout=", ".join(taxonomy["heldout"]),
        num_heldout=len(taxonomy["heldout"]),
        fictional=_FICTIONAL if taxonomy["name"] == "miniature" else "",
    )
    write_atomic(files.folder / "README.md", readme)


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


def _counts(examples: Sequence[Example]) -> dict[str, Any]:
    with_image = sum(example.image is not None for example in examples)
    return {
        "total": len(examples),
        "by_split": _count(example.split for example in examples),
        "with_image": with_image,
        "text_only": len(examples) - with_image,
    }


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _nested(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for (outer, inner), count in sorted(Counter(pairs).items()):
        table.setdefault(outer, {})[inner] = count
    return table


def _by_split(examples: Sequence[Example], key: Any) -> dict[str, dict[str, int]]:
    return _nested((key(example), example.split) for example in examples)


def _rejected(examples: Sequence[Example], dropped: Sequence[Dropped]) -> list[tuple[str, str]]:
    """Every answer that was not taken, as (task, reason): also of what succeeded later."""
    pairs: list[tuple[str, str]] = [
        (example.task, reason)
        for example in examples
        for reason in str(example.provenance.settings.get("rejected", "")).split()
    ]
    return pairs + [(d.task, reason) for d in dropped for reason in d.reasons]
