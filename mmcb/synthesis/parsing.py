"""Reading a query and its completion out of what a model wrote: the first JSON pair found.

Models wrap JSON in code fences, talk around it, break lines inside its strings. All of that is
read; whatever is not a pair even so is data, not an error.
"""

import json
from typing import Any, Final, NamedTuple

_DECODER = json.JSONDecoder(strict=False)  # takes line breaks inside strings
# What no answer needs: guards against quadratic work on a page of opening braces.
_MAX_STARTS = 200


PAIR_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"query": {"type": "string"}, "completion": {"type": "string"}},
    "required": ["query", "completion"],
    "additionalProperties": False,
}
"""What the writer is asked for, for engines that decode by a schema."""


class Pair(NamedTuple):
    """A request and its answer."""

    query: str
    completion: str


def parse_pair(text: str) -> Pair | None:
    """The first JSON object in the text that has a "query" and a "completion", or None."""
    start = -1
    for _ in range(_MAX_STARTS):
        start = text.find("{", start + 1)
        if start < 0:
            return None
        try:
            value, _ = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        pair = _as_pair(value)
        if pair is not None:
            return pair
    return None


def _as_pair(value: Any) -> Pair | None:
    if not isinstance(value, dict):
        return None
    fields = {str(key).strip().lower(): field for key, field in value.items()}
    query, completion = _as_text(fields.get("query")), _as_text(fields.get("completion"))
    return None if query is None or completion is None else Pair(query, completion)


def _as_text(value: Any) -> str | None:
    """A string as it stands, a number as digits, a list of strings (steps) as lines."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        value = "\n".join(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return None
    # JSON can spell half a surrogate pair, which no UTF-8 file can hold.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
