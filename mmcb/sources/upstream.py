"""Upstream's circuit_breakers_train.json: a JSON list of prompt, output and llama3_output.

Source: GraySwanAI/circuit-breakers, `src/cb_train_dataset.py`: prompt and output are the
circuit-breaker set; prompt and llama3_output, Llama-3's refusals, are part of its retain set.
"""

from __future__ import annotations

from mmcb.records import Example, Message
from mmcb.sources.rows import Reading, Row
from mmcb.store import record_id


def read_upstream(row: Row, reading: Reading) -> Example:
    """A harmful answer for the circuit-breaker set, a refusal for the retain set.

    Raises:
        MmcbError: a text is missing.
    """
    harmful = reading.kind == "circuit_breaker"
    prompt = row.text("prompt")
    answer = row.text("output" if harmful else "llama3_output")
    category = row.values.get("category")
    return Example(
        id=record_id("upstream", reading.kind, prompt, answer),
        kind=reading.kind,
        task="harmful" if harmful else "refusal",
        category=category if isinstance(category, str) and category else None,
        split="train",
        messages=(Message(role="user", content=prompt), Message(role="assistant", content=answer)),
        provenance=reading.provenance(row, format_="upstream"),
    )
