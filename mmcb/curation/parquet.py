"""A set as Parquet, the images in it: one file a split, which `datasets` loads with pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmcb.log import get_logger
from mmcb.records import Example
from mmcb.store import batches, replacing, resolve_image

SPLITS = ("train", "heldout")
BATCH = 64
"""Records held in memory at once, with their images."""

_log = get_logger(__name__)


def write_parquet(path: Path, examples: Iterable[Example]) -> list[Path]:
    """Write `parquet/NAME-train.parquet` and `-heldout.parquet` beside NAME.jsonl.

    An image that cannot be read is left out of its record, and counted on the screen. The files
    hold the images' own bytes, not a second encoding.

    Args:
        path: The set's JSONL file, from whose folder image paths go.
        examples: What is in it; gone through once for each split.

    Returns:
        The files written.
    """
    return [
        _write_split(path, split, (example for example in examples if example.split == split))
        for split in SPLITS
    ]


def _write_split(path: Path, split: str, examples: Iterable[Example]) -> Path:
    import pyarrow
    from pyarrow import parquet

    target = path.parent / "parquet" / f"{path.stem}-{split}.parquet"
    schema, missing = _schema(), 0
    with replacing(target) as file, parquet.ParquetWriter(file, schema) as writer:
        for batch in batches(examples, BATCH):
            rows = [_row(path, example) for example in batch]
            missing += sum(
                row["image"] is None and example.image is not None
                for row, example in zip(rows, batch, strict=True)
            )
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
    if missing:
        _log.warning("%s: %d images cannot be read; their records have none", target, missing)
    return target


def _schema() -> Any:
    """Arrow's schema, with the note that tells `datasets` which column is an image."""
    from datasets import Features, Image, Value

    message = {"role": Value("string"), "content": Value("string")}
    names = ("id", "kind", "task", "category", "split")
    features: dict[str, Any] = {name: Value("string") for name in names}
    features |= {"image": Image(), "messages": [message], "provenance": Value("string")}
    return Features(features).arrow_schema


def _row(path: Path, example: Example) -> dict[str, Any]:
    row = example.model_dump(include={"id", "kind", "task", "category", "split", "messages"})
    # As one string: who made it differs from record to record, and Parquet wants one shape.
    row["provenance"] = example.provenance.model_dump_json()
    row["image"] = None
    if example.image is not None:
        try:
            image = resolve_image(path, example.image).read_bytes()
            row["image"] = {"bytes": image, "path": Path(example.image).name}
        except OSError:
            pass
    return row
