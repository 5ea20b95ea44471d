"""The real lm-eval on the random models: own tasks, MMLU from CSV, pictures, bad input."""

import csv
import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmcb.errors import MmcbError
from mmcb.evaluation.lm_eval import tasks
from mmcb.evaluation.lm_eval.config import (
    PAPER_METRICS,
    PAPER_TASKS,
    PAPER_VISION_TASKS,
    LmEvalConfig,
    preset,
    split_task,
)
from mmcb.evaluation.lm_eval.outcome import outcome_of
from mmcb.evaluation.lm_eval.run import _key, run_lm_eval
from mmcb.evaluation.lm_eval.summary import paired_change, paper_average, print_summary
from mmcb.evaluation.lm_eval.tasks import LoadedTask
from mmcb.run_folder import read_manifest
from mmcb.runs.found import Run
from mmcb.runs.outcome import outcome
from mmcb.store import write_atomic
from tests.evaluation.trained import training_run

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'mmcb[eval]'")

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {output}
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
{more}
metadata:
  version: 3
"""
CHOICES = """\
doc_to_choice: ["dog", "cup"]
metric_list:
  - metric: acc
"""
PICTURES = """\
doc_to_image: ["image"]
process_docs: !function helpers.with_pictures
generation_kwargs:
  until: ["."]
  max_gen_toks: 4
metric_list:
  - metric: exact_match
"""
HELPERS = """\
from datasets import Image


def with_pictures(docs):
    return docs.cast_column("image", Image())
"""


ROWS = [{"question": f"what is {k} ? ", "answer": k % 2} for k in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of one's own in lm-eval's YAML, whose data are local files."""
    folder = tmp_path_factory.mktemp("tasks")
    Image.new("RGB", (60, 40), (200, 0, 0)).save(folder / "red.png")
    image = str(folder / "red.png")
    seen = [{"question": f"<image> {k} ?", "answer": "dog", "image": image} for k in range(2)]
    for name, rows, output, more in (
        ("zorch", ROWS, "multiple_choice", CHOICES),
        ("zorch_seen", seen, "generate_until", PICTURES),
    ):
        data = folder / f"{name}.jsonl"
        write_atomic(data, "".join(json.dumps(row) + "\n" for row in rows))
        write_atomic(
            folder / f"{name}.yaml", TASK.format(name=name, data=data, output=output, more=more)
        )
    write_atomic(folder / "helpers.py", HELPERS)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _one_index_of_tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """lm-eval's index of its thousands of task files is made once, and data are cached here."""
    import datasets
    import lm_eval.tasks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval.tasks, "TaskManager", cache(lm_eval.tasks.TaskManager))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def adapter_of(llm_folder: Path, folder: Path) -> Path:
    """A LoRA adapter large enough to change what the random model prefers."""
    import torch
    from peft import LoraConfig, get_peft_model

    from mmcb.models.loading import load_model

    model = get_peft_model(
        load_model(str(llm_folder)).model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    )
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def settings(model: Path, folder: Path, out: Path, **more: Any) -> LmEvalConfig:
    given = {"adapter": "none", "tasks": ("zorch",), **more}
    return LmEvalConfig(model=str(model), include_path=folder, out=out, **given)


def test_base_and_adapter_with_one_call_and_again_without_a_model(
    llm_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_run(tmp_path / "run", [ROWS[3]["question"], "something else"])
    adapter = adapter_of(llm_folder, tmp_path / "run/adapter")
    config = settings(llm_folder, folder, tmp_path / "out", adapter=str(adapter))
    results = run_lm_eval(config)
    found = results["tasks"]["zorch"]
    assert (found["n"], found["shots"], found["source"]) == (6, [0], f"json (with {folder})")
    assert found["task_versions"] == {"zorch": "3"}
    assert len(found["task_hashes"]["zorch"]) == 64
    acc = found["rows"]["zorch"]["acc,none"]
    assert acc["base"]["n"] == acc["defended"]["n"] == 6
    assert acc["base"]["stderr"] > 0 or acc["base"]["value"] in (0.0, 1.0)
    assert acc["change"]["value"] == pytest.approx(acc["defended"]["value"] - acc["base"]["value"])
    flagged = results["contamination"]["sets"]["zorch"]
    assert (flagged["n"], flagged["exact"], flagged["items"]) == (6, 1, ["zorch/3"])
    print_summary(results)
    shown = outcome(Run(tmp_path / "out", read_manifest(tmp_path / "out")))
    assert shown == f"zorch {acc['base']['value']:.3f} -> {acc['defended']['value']:.3f}"

    def no_model(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded, though nothing is missing")

    alone = settings(llm_folder, folder, tmp_path / "alone")
    assert run_lm_eval(alone)["tasks"]["zorch"]["rows"]["zorch"]["acc,none"]["base"] == acc["base"]
    monkeypatch.setattr("mmcb.evaluation.lm_eval.run.load_model", no_model)
    assert run_lm_eval(config)["tasks"] == results["tasks"]


def test_mmlu_from_its_csv_files_counts_every_question(
    llm_folder: Path, folder: Path, tmp_path: Path
) -> None:
    header = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]
    for subject, rows in {"anatomy": [header], "virology": []}.items():
        for split, count in {"test": 3, "dev": 2}.items():
            # The one with the header names the answer by its index, the other by its letter.
            answer = "2" if rows else "C"
            found = [*rows, *([f"q {k} ?", "a", "b", "c", "d", answer] for k in range(count))]
            path = tmp_path / f"mmlu/{split}/{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                csv.writer(file).writerows(found)
    data = tmp_path / "mmlu"
    config = settings(llm_folder, folder, tmp_path / "out", tasks=("mmlu@2",), mmlu_csv=data)
    found = run_lm_eval(config)["tasks"]["mmlu"]
    assert (found["n"], found["shots"], found["source"]) == (6, [2], str(data))
    assert found["rows"]["mmlu"]["acc,none"]["base"]["n"] == 6
    assert set(found["subtasks"]) == {"mmlu_anatomy", "mmlu_virology"}
    kept = json.loads((tmp_path / "out/base/mmlu.json").read_text())
    assert {name: len(of["acc,none"]) for name, of in kept["items"].items()} == {
        "mmlu_anatomy": 3, "mmlu_virology": 3,
    }  # fmt: skip
    (tmp_path / "mmlu/dev/virology_dev.csv").write_text("q,a,b,c,d,E\n")
    with pytest.raises(MmcbError, match=r"virology_dev\.csv:1: answer: 'E' is none of A, B, C, D"):
        run_lm_eval(config)
    (tmp_path / "mmlu/test/zorching_test.csv").write_text("q,a,b,c,d,A\n")
    shutil.copy(tmp_path / "mmlu/dev/anatomy_dev.csv", tmp_path / "mmlu/dev/virology_dev.csv")
    with pytest.raises(MmcbError, match=r"zorching_test\.csv: MMLU has no subject zorching"):
        run_lm_eval(config)


def test_a_task_with_pictures_goes_through_the_multimodal_model(
    vlm_folder: Path, llm_folder: Path, folder: Path, tmp_path: Path
) -> None:
    both = ("zorch", "zorch_seen")
    results = run_lm_eval(settings(vlm_folder, folder, tmp_path, batch_size=2, tasks=both))
    rows = {name: task["rows"][name] for name, task in results["tasks"].items()}
    assert rows["zorch"]["acc,none"]["base"]["n"] == 6
    assert rows["zorch_seen"]["exact_match,none"]["base"]["n"] == 2
    with pytest.raises(MmcbError, match=f"zorch_seen shows pictures, and {llm_folder} takes none"):
        run_lm_eval(settings(llm_folder, folder, tmp_path, tasks=both))


def test_what_cannot_be_had_is_named(llm_folder: Path, folder: Path, tmp_path: Path) -> None:
    config = settings(llm_folder, folder, tmp_path / "out")
    (tmp_path / "test").mkdir()
    for change, message in (
        ({"tasks": ("zorhc",)}, "lm-eval has no task zorhc"),
        ({"tasks": ("zorch", "hellaswag@10")}, "lm-eval task hellaswag: its data cannot be had: "),
        ({"include_path": tmp_path / "no"}, "--include-path .*no: no such folder"),
        ({"mmlu_csv": tmp_path}, "--mmlu-csv is given, but the task mmlu is not in --tasks"),
        ({"mmlu_csv": tmp_path, "tasks": ("mmlu@5",)}, r"test: holds no \*\.csv file"),
    ):
        with pytest.raises(MmcbError, match=message):
            run_lm_eval(config.model_copy(update=change))
    assert not (tmp_path / "out").exists()


def test_lm_eval_has_the_paper_s_tasks(folder: Path) -> None:
    from lm_eval.tasks import TaskManager

    known = TaskManager(include_path=folder).all_tasks
    assert {split_task(text)[0] for text in (*PAPER_TASKS, *PAPER_VISION_TASKS)} <= set(known)


def test_without_lm_eval_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MmcbError, match="this needs lm-eval") as caught:
        run_lm_eval(LmEvalConfig(adapter="none"))
    assert caught.value.hint == "pip install 'mmcb[eval]'"


def test_the_settings() -> None:
    assert split_task("mmlu@5") == ("mmlu", 5)
    assert split_task("mmmu_val") == ("mmmu_val", None)
    for bad in ("mmlu@", "@5", "mmlu@five"):
        with pytest.raises(ValueError, match="a task is NAME or NAME@SHOTS"):
            LmEvalConfig(tasks=(bad,))
    with pytest.raises(ValueError, match="mmlu is named twice"):
        LmEvalConfig(tasks=("mmlu@5", "mmlu@0"))
    assert len(preset("mistral").tasks) == 6
    assert preset("llava-hf/llava-v1.6-mistral-7b-hf").tasks[6:] == ("mmmu_val",)


def test_the_paper_s_average_is_told_only_of_all_six() -> None:
    values = dict(zip(PAPER_METRICS, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), strict=True))
    outcomes = {
        task: {"metrics": {task: {PAPER_METRICS[task]: {"value": value}}}}
        for task, value in values.items()
    }
    assert [split_task(text)[0] for text in PAPER_TASKS] == list(PAPER_METRICS)
    assert paper_average(outcomes) == pytest.approx(0.35)
    outcomes.pop("gsm8k")
    assert paper_average(outcomes) is None


def test_numbers_and_changes() -> None:
    sample = {"doc_hash": "a", "prompt_hash": "b", "target_hash": "c", "metrics": ["acc", "f"]}
    rows = [{**sample, "doc_id": k, "filter": "none", "acc": k, "f": (1, 2)} for k in (1, 0)]
    found = {
        "samples": {"t": rows},
        "results": {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": "N/A"}},
        "n-shot": {"t": 5},
        "versions": {"t": 1.0},
    }
    outcome = outcome_of(found)
    assert outcome["metrics"] == {"t": {"acc,none": {"value": 0.5, "stderr": None}}}
    assert (outcome["items"], outcome["n"]) == ({"t": {"acc,none": [0.0, 1.0]}}, {"t": 2})
    change = paired_change([1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0])
    assert change is not None
    assert (change["value"], change["n"]) == (-0.25, 4)
    assert change["low"] == pytest.approx(-0.25 - 1.96 * 0.25, abs=1e-3)
    assert paired_change([1.0], [1.0]) is None
    assert paired_change([1.0, 0.0], [1.0]) is None


def test_a_task_whose_own_files_were_edited_is_another(tmp_path: Path) -> None:
    data = tmp_path / "test/anatomy_test.csv"
    data.parent.mkdir()
    (tmp_path / "own").mkdir()
    data.write_text("a,b,c,d,e,A\n")
    (tmp_path / "own/own.yaml").write_text("task: own\n")
    config = LmEvalConfig(tasks=("mmlu",), mmlu_csv=tmp_path, include_path=tmp_path / "own")
    task = LoadedTask("mmlu", 0, str(tmp_path), [], {})
    keys = [_key(task, "weights", config)]
    data.write_text("a,b,c,d,e,B\n")
    keys.append(_key(task, "weights", config))
    (tmp_path / "own/own.yaml").write_text("task: own\nnum_fewshot: 1\n")
    keys.append(_key(task, "weights", config))
    assert len(set(keys)) == 3
    assert _key(task, "weights", config) == keys[-1]
