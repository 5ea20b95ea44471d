"""mmcb's own records of type Example, from any file or data set that holds them."""

from __future__ import annotations

from pydantic import ValidationError

from mmcb.records import Example
from mmcb.sources.images import image_path
from mmcb.sources.rows import Reading, Row


def read_mmcb(row: Row, reading: Reading) -> Example:
    """The record as it is: id, split and provenance kept.

    Raises:
        MmcbError: it is no example, or one of the other set.
    """
    try:
        example = Example.model_validate(dict(row.values))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        problem = f"{field}: {first['msg']}" if field else first["msg"]
        raise row.problem(f"not a valid Example record: {problem}") from None
    if example.kind != reading.kind:
        raise row.problem(f"is a {example.kind} example, not a {reading.kind} one")
    if example.image is None:
        return example
    return example.model_copy(update={"image": image_path(row, example.image, reading)})
