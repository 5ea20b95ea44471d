"""Instructions: `instruction`, `input` and `output`, as in Alpaca.

Source: Taori et al. 2023, tatsu-lab/stanford_alpaca; the layout of most instruction sets since.
"""

from __future__ import annotations

from mmcb.records import Example, Message
from mmcb.sources.rows import Reading, Row
from mmcb.store import record_id


def read_alpaca(row: Row, reading: Reading) -> Example:
    """The instruction, with its input below it where there is one, and the output as the answer.

    Raises:
        MmcbError: a text is missing, or the input is something else than text.
    """
    instruction, output = row.text("instruction"), row.text("output")
    given = row.values.get("input") or ""
    if not isinstance(given, str):
        raise row.problem(f"input: must be text, is {type(given).__name__}")
    prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
    return Example(
        id=record_id("alpaca", reading.kind, prompt, output),
        kind=reading.kind,
        task="harmful" if reading.kind == "circuit_breaker" else "instruction",
        split="train",
        messages=(Message(role="user", content=prompt), Message(role="assistant", content=output)),
        provenance=reading.provenance(row, format_="alpaca"),
    )
