"""Benchmarks of what a model can do, as tasks with reference answers: BFCL, LLaVA-Bench.

Their published numbers come from other scorers (log-likelihoods, syntax trees, a judge). These
tasks go through `references`, which compares words: good enough to see whether a defence took
something away, not to be set beside a leaderboard.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.evaluation.benchmarks.config import BenchmarkConfig
from mmcb.evaluation.benchmarks.reading import Placed, either, files, picture
from mmcb.records import Task
from mmcb.sources.rows import Row, read_rows


def read_bfcl(config: BenchmarkConfig) -> Iterator[Placed]:
    """Function calls: `BFCL_v4_*.json` (JSON lines) and, for references, `possible_answer/`.

    Of each argument the first value that counts as right is the reference. Source: the Berkeley
    function-calling leaderboard. Items with several turns are refused.

    Raises:
        MmcbError: a record of another form, with file and line.
    """
    for path in files(config.source, "*.json"):
        answers = _by_id(_answer_file(config, path), "id")
        for row in read_rows(path):
            name = row.text("id")
            prompt = f"{_functions(row)}\n\n{_request(row)}"
            references = () if name not in answers else (_calls(answers[name]),)
            yield Placed(
                row.where, Task(id=name, task="fact", prompt=prompt, references=references)
            )


def read_llava_bench(config: BenchmarkConfig) -> Iterator[Placed]:
    """Questions about pictures, with GPT-4's answers as references.

    Source: Liu et al. 2023 (arXiv 2304.08485): `qa90_questions.jsonl` (COCO) and
    `questions.jsonl` (in the wild) with --answers, or `coco2014_val_gpt4_qa_30x3.jsonl`, whose
    rows hold their answers.

    Raises:
        MmcbError: a key, an answer or a picture is missing, with file and line.
    """
    answers = _by_id(config.answers, "question_id")
    for row in read_rows(config.source):
        kind, image = either(row, "category", "type"), row.text("image")
        references: tuple[str, ...] = ()
        if "question_id" in row.values:
            name = str(row.values["question_id"])
            if config.answers is not None and name not in answers:
                raise row.problem(f"question_id {name} has no answer in {config.answers}")
            references = (answers[name].text("text"),) if name in answers else ()
        else:
            name, references = f"{row.text('id')}-{kind}", (row.text("output"),)
        task = Task(
            id=f"llava-bench-{name}",
            task="caption" if kind == "detail" else "vqa",
            prompt=either(row, "text", "instruction"),
            references=references,
            # COCO's own file names have a prefix that the questions leave out.
            image=picture(config, row, image, f"COCO_val2014_{image}"),
        )
        yield Placed(row.where, task)


def _by_id(path: Path | None, key: str) -> dict[str, Row]:
    return {} if path is None else {str(row.values.get(key)): row for row in read_rows(path)}


def _answer_file(config: BenchmarkConfig, path: Path) -> Path | None:
    if config.answers is None or config.answers.is_file():
        return config.answers
    if not config.answers.is_dir():
        raise MmcbError(f"{config.answers}: no such file or folder", hint="give --answers another")
    # Questions that no function answers have no file of answers.
    beside = config.answers / path.name
    return beside if beside.is_file() else None


def _functions(row: Row) -> str:
    functions = row.values.get("function")
    if not isinstance(functions, list) or not functions:
        raise row.problem("function: must be a list of functions")
    lines = [json.dumps(function, ensure_ascii=False) for function in functions]
    return "\n".join(["You can call these functions:", *lines, "Answer with calls alone."])


def _request(row: Row) -> str:
    turns = row.values.get("question")
    if not isinstance(turns, list) or len(turns) != 1:
        raise row.problem("question: must hold one turn")
    inner = Row(row.where, {"question": turns[0]})
    return "\n\n".join(text for _, text in inner.turns("question", role="role", content="content"))


def _calls(row: Row) -> str:
    calls = row.values.get("ground_truth")
    if not isinstance(calls, list) or not all(isinstance(c, Mapping) and c for c in calls):
        raise row.problem("ground_truth: must be a list of calls")
    return ", ".join(_call(row, name, values) for call in calls for name, values in call.items())


def _call(row: Row, name: str, values: Any) -> str:
    if not isinstance(values, Mapping) or not all(isinstance(v, list) for v in values.values()):
        raise row.problem(f"ground_truth: {name}: each argument must list its right values")
    # No value, or an empty string among them, means that the argument may be left out.
    given = {key: right[0] for key, right in values.items() if right and right[0] != ""}
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
