"""A benchmark's files -> behaviors.jsonl, text_behaviors.jsonl and tasks.jsonl, all or nothing."""

from __future__ import annotations

from pathlib import Path

from mmcb.errors import MmcbError
from mmcb.evaluation.benchmarks.config import BenchmarkConfig
from mmcb.evaluation.benchmarks.formats import FORMATS
from mmcb.evaluation.benchmarks.reading import Item
from mmcb.log import get_logger
from mmcb.records import Behavior
from mmcb.store import replace_records

_log = get_logger(__name__)


def read_benchmark(config: BenchmarkConfig) -> list[Item]:
    """Every record of a benchmark, in the order of its files.

    Raises:
        MmcbError: a record of another form, or twice the same id, with file and line; none at all.
    """
    seen: dict[str, str] = {}
    items: list[Item] = []
    for placed in FORMATS[config.format].read(config):
        name = placed.record.id
        if name in seen:
            raise MmcbError(f"{placed.where}: id {name} was at {seen[name]} already")
        seen[name] = placed.where
        items.append(placed.record)
    if not items:
        raise MmcbError(f"{config.source}: holds no {config.format} record")
    return items


def import_benchmark(config: BenchmarkConfig) -> dict[Path, int]:
    """Read a benchmark and write its records; the number in each file written.

    Raises:
        MmcbError: as `read_benchmark`; nothing is written then.
    """
    items = read_benchmark(config)
    behaviors = [item for item in items if isinstance(item, Behavior)]
    files: dict[str, list[Item]] = {
        "behaviors.jsonl": [item for item in behaviors if item.image is not None],
        "text_behaviors.jsonl": [item for item in behaviors if item.image is None],
        "tasks.jsonl": [item for item in items if not isinstance(item, Behavior)],
    }
    written: dict[Path, int] = {}
    for name, records in files.items():
        if records:
            replace_records(config.out / name, records)
            written[config.out / name] = len(records)
            _log.info("%s: %d records", config.out / name, len(records))
    size = FORMATS[config.format].full_size
    if size is not None and len(items) != size:
        _log.warning("%s has %d records, the whole benchmark %d", config.source, len(items), size)
    return written
