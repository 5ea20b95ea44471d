"""XSTest completions: GPT-4's answers to borderline prompts, as upstream's retain set takes them.

Source: GraySwanAI/circuit-breakers, `data/xstest_v2_completions_gpt4_gpteval.csv` and
`src/cb_train_dataset.py`: of its 450 rows those whose final_label is 1_full_compliance.
"""

from __future__ import annotations

from mmcb.records import Example, Message
from mmcb.sources.rows import Reading, Row
from mmcb.store import record_id

COMPLIANCE = "1_full_compliance"


def read_xstest(row: Row, reading: Reading) -> Example | None:
    """A prompt and its answer; None where the answer is not a full one.

    Raises:
        MmcbError: a column is missing or empty.
    """
    if row.text("final_label") != COMPLIANCE:
        return None
    prompt, answer = row.text("prompt"), row.text("completion")
    return Example(
        id=record_id("xstest", reading.kind, prompt, answer),
        kind=reading.kind,
        task="instruction",
        split="train",
        messages=(Message(role="user", content=prompt), Message(role="assistant", content=answer)),
        provenance=reading.provenance(row, format_="xstest"),
    )
