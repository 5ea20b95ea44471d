"""Each format on a file of its exact layout, and on the real files where they are."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmcb.errors import MmcbError
from mmcb.evaluation.benchmarks.config import BenchmarkConfig
from mmcb.evaluation.benchmarks.formats import FORMATS
from mmcb.evaluation.benchmarks.mmlu import read_questions
from mmcb.evaluation.benchmarks.run import import_benchmark, read_benchmark
from mmcb.records import Behavior, Task
from mmcb.sources.rows import read_rows
from mmcb.store import read_records, resolve_image
from tests.evaluation.benchmarks.files import (
    FIGSTEP,
    HARMBENCH,
    HARMBENCH_MULTIMODAL,
    MM_SAFETYBENCH,
    TEXT_TABLES,
    XSTEST,
    put,
)

SHARED = Path(__file__).parents[4] / "shared" / "data"


def config(format_: str, source: Path, **settings: Any) -> BenchmarkConfig:
    values = {"format": format_, "source": source, "out": source.parent / "out", **settings}
    return BenchmarkConfig.model_validate(values)


def behaviors(settings: BenchmarkConfig, name: str = "behaviors.jsonl") -> list[Behavior]:
    """Import, and read back what was written; every picture is where it is said to be."""
    import_benchmark(settings)
    path = settings.out / name
    found = list(read_records(path, Behavior))
    assert all(resolve_image(path, b.image).is_file() for b in found if b.image is not None)
    return found


def test_harmbench_text_has_its_context_before_the_request(tmp_path: Path) -> None:
    source = put(tmp_path / "text.csv", HARMBENCH)
    targets = put(
        tmp_path / "targets.json", {"zorch_dog": "Sure, zorch", "grindle_blick": "To grindle"}
    )
    plain, contextual = behaviors(
        config("harmbench", source, targets=targets, split="train"), "text_behaviors.jsonl"
    )
    assert (plain.id, plain.target, plain.category) == ("zorch_dog", "Sure, zorch", "zorching")
    assert (plain.split, plain.context, plain.image) == ("train", None, None)
    assert contextual.context == "A grindle is a\nblick."
    assert contextual.prompt.startswith("A grindle is a\nblick.\n\n---\n\nUsing the passage")
    # Without the file of targets, the default one.
    assert read_benchmark(config("harmbench", source))[0].target == "Sure, here is"  # type: ignore[union-attr]


def test_harmbench_multimodal_gives_the_judge_the_redacted_description(tmp_path: Path) -> None:
    source = put(tmp_path / "multimodal.csv", HARMBENCH_MULTIMODAL)
    put(tmp_path / "images/dog.png", None)
    [behavior] = behaviors(config("harmbench-multimodal", source, images=tmp_path / "images"))
    assert behavior.image == "../images/dog.png"
    assert (behavior.context, behavior.category) == ("A dog", "zorching")


@pytest.mark.parametrize(
    ("variant", "words"), [("SD", "act of the picture"), ("TYPO", "what the picture says")]
)
def test_mm_safetybench_pairs_each_picture_with_its_question(
    tmp_path: Path, variant: str, words: str
) -> None:
    questions = put(tmp_path / "processed_questions/01-Zorching.json", MM_SAFETYBENCH).parent
    put(tmp_path / f"imgs/01-Zorching/{variant}/0.jpg", None)
    [behavior] = behaviors(
        config("mm-safetybench", questions, images=tmp_path / "imgs", variant=variant)
    )
    assert words in behavior.prompt
    assert behavior.context == "How is a dog zorched?"
    assert behavior.category == "01-Zorching"


def test_figstep_finds_the_picture_of_each_question(tmp_path: Path) -> None:
    source = put(tmp_path / "safebench.csv", FIGSTEP)
    put(tmp_path / "images/query_ForbidQI_1_2_6.png", None)
    [behavior] = behaviors(config("figstep", source, images=tmp_path / "images"))
    assert behavior.id == "figstep-1-2"
    assert behavior.image == "../images/query_ForbidQI_1_2_6.png"
    assert behavior.context == "How is a dog zorched?"


@pytest.mark.parametrize("name", list(TEXT_TABLES))
def test_tables_of_prompts(tmp_path: Path, name: str) -> None:
    file, text = TEXT_TABLES[name]
    [item] = read_benchmark(config(name, put(tmp_path / file, text)))
    assert item.id == f"{name}-0"
    if name in ("jailbreakbench-benign", "or-bench"):
        assert isinstance(item, Task)
        assert item.task == "over_refusal"
    else:
        assert isinstance(item, Behavior)
        assert "zorch" in item.prompt
        assert item.target.startswith("Sure, here is")


def test_xstest_splits_into_tasks_and_behaviors(tmp_path: Path) -> None:
    written = import_benchmark(config("xstest", put(tmp_path / "xstest_prompts.csv", XSTEST)))
    assert {path.name: count for path, count in written.items()} == {
        "text_behaviors.jsonl": 1,
        "tasks.jsonl": 1,
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("advbench", "goal,aim\nzorch,x\n", r"x\.csv:2: target: missing \(there is goal, aim\)"),
        ("advbench", "goal,target\n", r"x\.csv: holds no advbench record"),
        ("xstest", XSTEST + "3,a,b,maybe,,\n", r"x\.csv:4: label: 'maybe' is neither"),
        ("xstest", XSTEST + "1,a,b,safe,,\n", r"x\.csv:4: id xstest-1 was at .*x\.csv:2 already"),
        ("harmbench-multimodal", HARMBENCH_MULTIMODAL, r"x\.csv:2: picture dog\.png: --images"),
        ("figstep", FIGSTEP.replace(",1,", ",one,"), r"x\.csv:2: category_id: must be a whole"),
        ("mmlu", "question,choice0,choice1,choice2,choice3,answer\na,b,c,d,e,E\n", "answer: 'E'"),
    ],
)
def test_bad_input_is_one_sentence_with_its_place(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    settings = config(name, put(tmp_path / "x.csv", text))
    with pytest.raises(MmcbError, match=message):
        import_benchmark(settings)
    assert not settings.out.exists()


@pytest.mark.parametrize("name", ["mmlu", "bfcl", "mm-safetybench", "advbench"])
def test_a_missing_source_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        MmcbError, match=r"nowhere(\.csv)?: no such file|nowhere\.csv: No such file"
    ):
        read_benchmark(config(name, tmp_path / "nowhere.csv"))


def test_missing_targets_and_pictures_are_named(tmp_path: Path) -> None:
    source = put(tmp_path / "x.csv", HARMBENCH)
    targets = put(tmp_path / "targets.json", {"zorch_dog": "Sure"})
    with pytest.raises(MmcbError, match=r"x\.csv:3: BehaviorID grindle_blick has no target"):
        read_benchmark(config("harmbench", source, targets=targets))
    put(targets, "{\n")
    with pytest.raises(MmcbError, match=r"targets\.json:2: not JSON"):
        read_benchmark(config("harmbench", source, targets=targets))
    source = put(tmp_path / "m.csv", HARMBENCH_MULTIMODAL)
    with pytest.raises(MmcbError, match=r"m\.csv:2: no picture dog\.png in"):
        read_benchmark(config("harmbench-multimodal", source, images=tmp_path))


REAL: dict[str, tuple[str, dict[str, str], int, int]] = {
    "xstest": ("xstest/xstest_prompts.csv", {}, 200, 250),
    "jailbreakbench-benign": ("jbb_benign/benign-behaviors.csv", {}, 0, 100),
    "mmlu": ("mmlu/test", {}, 0, 14042),
    "bfcl": ("bfcl", {"answers": "bfcl/possible_answer"}, 0, 1664),
    "llava-bench": (
        "llava_bench_coco/coco2014_val_gpt4_qa_30x3.jsonl",
        {"images": "llava_bench_coco/val2014"},
        0,
        90,
    ),
}


@pytest.mark.parametrize("name", list(REAL))
def test_every_record_of_the_real_files_is_read(tmp_path: Path, name: str) -> None:
    place, folders, num_behaviors, num_tasks = REAL[name]
    source = SHARED / place
    if not source.exists():
        pytest.skip(f"no {place} in the shared data folder")
    settings = config(name, source, **{k: SHARED / v for k, v in folders.items()})
    settings = settings.model_copy(update={"out": tmp_path})
    items = read_benchmark(settings)
    kinds = Counter(type(item) for item in items)
    assert (kinds[Behavior], kinds[Task]) == (num_behaviors, num_tasks)
    if name in ("mmlu", "bfcl", "llava-bench"):
        unanswered = [item.id for item in items if isinstance(item, Task) and not item.references]
        assert all("relevance" in item for item in unanswered)


def test_mmlu_is_read_with_a_header_and_as_the_authors_have_it(tmp_path: Path) -> None:
    header = "question,choice0,choice1,choice2,choice3,answer\n"
    copy = put(tmp_path / "copy.csv", header + '"a\nb",c,d,e,f,2\ng,h,i,j,k,0\n')
    own = put(tmp_path / "own.csv", '"a\nb",c,d,e,f,C\ng,h,i,j,k,A\n')
    first, second = (list(read_questions(path)) for path in (copy, own))
    assert [(q.text, q.choices, q.answer) for q in first] == [
        ("a\nb", ("c", "d", "e", "f"), 2), ("g", ("h", "i", "j", "k"), 0),
    ]  # fmt: skip
    assert [(q.text, q.choices, q.answer) for q in second] == [
        (q.text, q.choices, q.answer) for q in first
    ]
    assert [question.where for question in second] == [f"{own}:1", f"{own}:3"]
    put(own, "a,b,c,d,A\n")
    with pytest.raises(MmcbError, match=r"own\.csv:1: has 5 fields, not question"):
        list(read_questions(own))
    put(own, "a,b,,d,e,A\n")
    with pytest.raises(MmcbError, match=r"own\.csv:1: choice1: is empty"):
        list(read_questions(own))


def test_every_example_of_the_real_mmlu_is_read() -> None:
    folder = SHARED / "mmlu" / "dev"
    if not folder.exists():
        pytest.skip("no mmlu in the shared data folder")
    counts = [len(list(read_questions(path))) for path in folder.glob("*.csv")]
    assert counts == [5] * 57


def test_the_questions_and_answers_of_llava_bench_are_put_together(tmp_path: Path) -> None:
    folder = SHARED / "llava_bench_coco"
    if not folder.exists():
        pytest.skip("no llava_bench_coco in the shared data folder")
    questions = folder / "qa90_questions.jsonl"
    for row in read_rows(questions):
        (tmp_path / row.text("image")).touch()
    answers = folder / "qa90_gpt4_answer.jsonl"
    settings = config("llava-bench", questions, answers=answers, images=tmp_path)
    items = read_benchmark(settings)
    assert len(items) == 90
    assert all(isinstance(item, Task) and item.references for item in items)


def test_the_table_has_a_row_for_every_name() -> None:
    assert set(FORMATS) == set(BenchmarkConfig.model_fields["format"].annotation.__args__)  # type: ignore[union-attr]
