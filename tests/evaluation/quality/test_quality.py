"""MT-Bench and LLaVA-Bench: questions, two turns, grades, and what is in no mean."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmcb.errors import MmcbError
from mmcb.evaluation.bootstrap import ratio_of_sums
from mmcb.evaluation.judges.prompted import read_template
from mmcb.evaluation.judges.specification import PROMPTS
from mmcb.evaluation.quality.config import QualityConfig
from mmcb.evaluation.quality.grading import rating, score_pair
from mmcb.evaluation.quality.questions import read_questions
from mmcb.evaluation.quality.run import measure_quality
from mmcb.evaluation.quality.summary import print_summary
from mmcb.generation.protocol import Completion, Request, Sampling
from mmcb.run_folder import read_manifest
from mmcb.runs.config import ShowConfig
from mmcb.runs.found import Run
from mmcb.runs.outcome import outcome
from mmcb.runs.show import show_run
from tests.evaluation.trained import training_run
from tests.generation.fake_server import FakeServer


class Fake:
    """Says what a function makes of a request; counts what it was asked."""

    name = "fake"
    revision = None

    def __init__(self, say: Callable[[Request], str], *, stop_after: int | None = None) -> None:
        self.say = say
        self.asked: list[Request] = []
        self.stop_after = stop_after

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        for request in requests:
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(request)
            text = self.say(request)
            reason = "error" if text == "BROKEN" else "stop"
            yield [Completion(request.id, "" if reason == "error" else text, reason, 2)]  # type: ignore[arg-type]


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mt_bench(folder: Path, **settings: Any) -> QualityConfig:
    """Three questions of two turns, the second of which needs a reference."""
    questions = [
        {"question_id": k, "category": "math" if k == 1 else "writing", "turns": [f"a{k}", f"b{k}"]}
        for k in range(3)
    ]
    answers = [{"question_id": 1, "choices": [{"turns": ["ref a1", "ref b1"]}]}]
    return QualityConfig(
        benchmark="mt-bench",
        questions=lines(folder / "question.jsonl", questions),
        references=lines(folder / "gpt-4.jsonl", answers),
        judge="some/judge",
        model="tiny-mistral",
        out=folder / "out",
        **{"adapter": "none", **settings},
    )


def llava_bench(folder: Path) -> QualityConfig:
    Image.new("RGB", (8, 8)).save(folder / "COCO_val2014_7.jpg")
    rows = [
        {"question_id": k, "image": "7.jpg", "text": f"q{k}", "category": "conv"} for k in range(4)
    ]
    context = {
        "image": "7.jpg",
        "captions": ["a dog", "the dog"],
        "instances": [{"category": "dog", "bbox": [0.1, 0.2, 0.3, 0.4]}],
    }
    return QualityConfig(
        benchmark="llava-bench",
        questions=lines(folder / "q.jsonl", rows),
        references=lines(
            folder / "a.jsonl", [{"question_id": k, "text": f"ref{k}"} for k in range(4)]
        ),
        context=lines(folder / "c.jsonl", [context]),
        images=folder,
        judge="some/judge",
        adapter="none",
        out=folder / "out",
    )


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("good. Rating: [[7]]", (7.0, None)),
        ("[[8.5]] and then [[2]]", (8.5, None)),
        ("Rating: [3]", (3.0, None)),
        ("Rating: 7", None),
        ("[[11]]", None),
        ("[[0]]", None),
        ("", None),
    ],
)
def test_ratings(text: str, scores: tuple[float, float | None] | None) -> None:
    assert rating(text) == scores


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("8 6\nbecause", (6.0, 8.0)),
        (" 8.5, 9", (9.0, 8.5)),
        ("8,6", (6.0, 8.0)),
        ("8", None),
        ("8 6 7", None),
        ("Scores: 8 6", None),
        ("8 60", None),
        ("86", None),
    ],
)
def test_score_pairs(text: str, scores: tuple[float, float | None] | None) -> None:
    assert score_pair(text) == scores


def test_the_second_turn_sees_the_first_answer_and_the_judge_both(tmp_path: Path) -> None:
    answerer = Fake(lambda request: f"re {request.messages[-1].content}")
    judge = Fake(lambda request: "[[4]]" if "re b" in request.messages[0].content else "[[8]]")
    config = mt_bench(tmp_path)
    results = measure_quality(config, make_answerer=lambda _: answerer, make_judge=lambda: judge)
    second = [request for request in answerer.asked if len(request.messages) > 1]
    assert [[m.content for m in request.messages] for request in second] == [
        [f"a{k}", f"re a{k}", f"b{k}"] for k in range(3)
    ]
    prompts = [request.messages[0].content for request in judge.asked]
    assert sum("ref a1" in text for text in prompts) == 2
    assert sum("### Assistant A:\nre b1" in text and "ref b1" in text for text in prompts) == 1
    assert not any("ref" in text.replace("preference", "") for text in prompts if "a0" in text)
    model = results["models"]["base"]
    assert (model["score"]["value"], model["score"]["n"]) == (6.0, 3)
    assert model["turns"]["1"]["score"]["value"] == 8.0
    assert model["turns"]["2"]["score"]["value"] == 4.0
    assert model["categories"]["math"]["score"]["n"] == 1
    assert results["contamination"]["status"] == "not checked"
    print_summary(results)


def test_what_cannot_be_read_is_counted_and_in_no_mean(tmp_path: Path) -> None:
    answerer = Fake(lambda r: "BROKEN" if r.messages[-1].content == "a2" else "fine")
    judge = Fake(lambda r: "no idea" if "b0" in r.messages[0].content else "[[9]]")
    config = mt_bench(tmp_path)
    model = measure_quality(config, make_answerer=lambda _: answerer, make_judge=lambda: judge)[
        "models"
    ]["base"]
    # a2 got no answer, so b2 was not asked; b0's judgement says nothing.
    assert (model["answers"], model["no_answer"], model["unreadable"]) == (5, 1, 1)
    assert (model["score"]["value"], model["score"]["n"]) == (9.0, 2)
    grades = [json.loads(line) for line in (tmp_path / "out/grades.jsonl").read_text().splitlines()]
    assert [grade["text"] for grade in grades if grade["score"] is None] == ["no idea"]


def test_a_judge_that_babbles_gives_no_number(tmp_path: Path) -> None:
    config = mt_bench(tmp_path)
    judge = Fake(lambda r: "BROKEN" if "a0" in r.messages[0].content else "dog dog")
    results = measure_quality(
        config, make_answerer=lambda _: Fake(lambda r: "fine"), make_judge=lambda: judge
    )
    model = results["models"]["base"]
    assert (model["score"]["value"], model["score"]["n"], model["unreadable"]) == (None, 0, 6)
    print_summary(results)


def test_a_cut_run_goes_on_where_it_was(tmp_path: Path) -> None:
    config = mt_bench(tmp_path)
    answerer = Fake(lambda r: "fine", stop_after=4)
    judge = Fake(lambda r: "[[5]]", stop_after=3)

    def again() -> dict[str, Any]:
        return measure_quality(config, make_answerer=lambda _: answerer, make_judge=lambda: judge)

    for fake in (answerer, judge):
        with pytest.raises(KeyboardInterrupt):
            again()
        fake.stop_after = None
    results = again()
    assert results["models"]["base"]["score"]["value"] == 5.0
    assert max(Counter(r.id for r in [*answerer.asked, *judge.asked]).values()) == 1
    assert (len(answerer.asked), len(judge.asked)) == (6, 6)


def test_both_models_are_compared_on_the_same_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = training_run(tmp_path / "run", ["a1", "something else"])
    config = mt_bench(tmp_path, adapter=str(adapter))
    judge = Fake(lambda r: "[[6]]" if "defended" in r.messages[0].content else "[[8]]")
    made = []

    def answerer(role: str) -> Fake:
        made.append(role)
        return Fake(lambda r: role)

    results = measure_quality(config, make_answerer=answerer, make_judge=lambda: judge)
    assert made == ["base", "defended"], "both turns of one load"
    assert results["models"]["base"]["score"]["value"] == 8.0
    assert results["change"] == {"value": -2.0, "n": 3, "low": -2.0, "high": -2.0}
    assert (
        outcome(Run(tmp_path / "out", read_manifest(tmp_path / "out"))) == "mt-bench 8.00 -> 6.00"
    )
    show_run(ShowConfig(run=tmp_path / "out"))
    assert "judge: some/judge" in capsys.readouterr().out
    found = results["contamination"]["sets"]["mt-bench"]
    assert (found["n"], found["exact"], found["items"]) == (3, 1, ["1"])


def test_llava_bench_grades_the_answer_beside_the_reference(tmp_path: Path) -> None:
    answerer, judge = Fake(lambda r: "mine"), Fake(lambda r: "8 6\nso")
    results = measure_quality(
        llava_bench(tmp_path), make_answerer=lambda _: answerer, make_judge=lambda: judge
    )
    assert all(r.image is not None and r.image.is_file() for r in answerer.asked)
    text = judge.asked[0].messages[0].content
    assert "[Context]\na dog\nthe dog\n\ndog: [0.1, 0.2, 0.3, 0.4]\n" in text
    assert "[Assistant 1]\nref0\n" in text
    assert "[Assistant 2]\nmine\n" in text
    model = results["models"]["base"]
    assert model["score"]["value"] == 6.0
    assert model["reference_score"]["value"] == 8.0
    assert model["relative"]["value"] == 0.75
    print_summary(results)


def test_the_judge_of_pictures_in_the_wild_reads_a_caption(tmp_path: Path) -> None:
    config = llava_bench(tmp_path)
    assert config.context is not None
    lines(config.context, [{"id": "1", "image": "7.jpg", "caption": "a dog on a cup"}])
    judge = Fake(lambda r: "8 6")
    measure_quality(
        config, make_answerer=lambda _: Fake(lambda r: "mine"), make_judge=lambda: judge
    )
    text = judge.asked[0].messages[0].content
    assert "[Context]\na dog on a cup\n\n[Question]" in text
    assert "a few sentences describing the image" in text


def test_answers_and_grades_through_a_server(tmp_path: Path) -> None:
    with FakeServer().running() as server:
        config = mt_bench(tmp_path, engine=server.config(), judge_engine=server.config())
        config = config.model_copy(update={"model": "fake-model", "judge": "fake-model"})
        results = measure_quality(config)
    # The fake server says what it was told, and MT-Bench's prompts hold an example, [[5]].
    model = results["models"]["base"]
    assert (model["score"]["value"], model["score"]["n"], model["unreadable"]) == (5.0, 3, 0)
    assert len(server.chats) == 12
    texts = [chat["messages"][-1]["content"] for chat in server.chats]
    assert sum("### Assistant A:\nre: a0" in text for text in texts) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question_id": 1}, r"question\.jsonl:2: question_id 1 stands twice"),
        ({"question_id": 9, "category": "coding"}, r"jsonl:2: question_id 9 has no answer in"),
        ({"question_id": 9, "turns": []}, r"question\.jsonl:2: turns: must be a list of texts"),
        ({"question_id": None}, r"question\.jsonl:2: question_id: missing"),
        ({"question_id": 1, "turns": ["a", "b", "c"]}, "has 3 turns, its reference answer 2"),
    ],
)
def test_bad_questions_are_one_sentence(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = mt_bench(tmp_path)
    good = {"question_id": 1, "category": "math", "turns": ["a", "b"]}
    rows = [good, {**good, "category": "math", **change}]
    if "stands twice" not in message:
        rows[0] = {**good, "question_id": 0, "category": "writing"}
    lines(config.questions, rows)
    with pytest.raises(MmcbError, match=message):
        read_questions(config)
    assert not (tmp_path / "out").exists()


def test_llava_bench_names_what_is_missing(tmp_path: Path) -> None:
    config = llava_bench(tmp_path)
    with pytest.raises(MmcbError, match="llava-bench needs --images"):
        read_questions(config.model_copy(update={"images": None}))
    (tmp_path / "COCO_val2014_7.jpg").unlink()
    with pytest.raises(MmcbError, match=r"q\.jsonl:1: no picture 7\.jpg or COCO_val2014_7\.jpg"):
        read_questions(config)
    assert config.context is not None
    lines(config.context, [{"image": "8.jpg", "caption": "x"}])
    with pytest.raises(MmcbError, match=r"q\.jsonl:1: picture 7\.jpg has no context in"):
        read_questions(config)


def test_intervals_are_drawn_over_whole_questions() -> None:
    twice = ratio_of_sums([2.0, 18.0] * 20, [2.0, 2.0] * 20, seed=0)
    assert (twice.value, twice.n) == (5.0, 40)
    assert twice.low is not None
    assert twice.high is not None
    # Standard error 4 / sqrt(40) = 0.63, not that of 80 scores.
    assert twice.low == pytest.approx(5 - 1.96 * 0.632, abs=0.1)
    assert twice.high == pytest.approx(5 + 1.96 * 0.632, abs=0.1)
    assert ratio_of_sums([], [], seed=0).value is None


def test_every_question_of_the_real_files_is_read(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "mt_bench"
    config = QualityConfig(
        benchmark="mt-bench",
        questions=folder / "question.jsonl",
        references=folder / "reference_answer/gpt-4.jsonl",
        judge="j",
    )
    questions = read_questions(config)
    assert len(questions) == 80
    assert sum(len(question.turns) for question in questions) == 160
    assert sum(bool(question.references) for question in questions) == 30
    folder = shared_data / "llava_bench_coco"
    for row in map(json.loads, (folder / "qa90_questions.jsonl").read_text().splitlines()):
        # 7 of its 30 pictures are not among the shared data; only their names are read here.
        (tmp_path / row["image"]).touch()
    config = QualityConfig(
        benchmark="llava-bench",
        questions=folder / "qa90_questions.jsonl",
        references=folder / "qa90_gpt4_answer.jsonl",
        context=folder / "caps_boxes_coco2014_val_80.jsonl",
        images=tmp_path,
        judge="j",
    )
    questions = read_questions(config)
    assert len(questions) == 90
    assert len({question.image for question in questions}) == 30
    assert all(question.context and question.boxes for question in questions)


def test_the_prompts_are_the_published_ones(shared_data: Path) -> None:
    template = read_template(PROMPTS / "mt_bench.j2")
    turns = [{"question": "Q1", "answer": "A1"}, {"question": "Q2", "answer": "A2"}]
    letters = {"question": "Q", "answer": "A", "ref_answer": "R"}
    values = {f"{name}_{k}": f"{letter}{k}" for k in (1, 2) for name, letter in letters.items()}
    rows = (shared_data / "mt_bench/judge_prompts.jsonl").read_text().splitlines()
    published = {row["name"]: row for row in map(json.loads, rows)}
    for name in (
        "single-v1",
        "single-math-v1",
        "single-v1-multi-turn",
        "single-math-v1-multi-turn",
    ):
        wanted = published[name]["prompt_template"].format(question="Q1", answer="A1", **values)
        if "multi" in name:
            wanted = published[name]["system_prompt"] + wanted
        given = template.render(
            turns=turns if "multi" in name else turns[:1],
            references=("R1", "R2") if "math" in name else (),
            context=None,
            boxes=None,
        )
        assert given == wanted
    rules = json.loads((shared_data / "llava_bench_coco/rule.json").read_text())
    template = read_template(PROMPTS / "llava_bench.j2")
    for rule, boxes in (("conv", "dog: [0]"), ("llava_bench_conv", None)):
        given = template.render(turns=turns[:1], references=["R1"], context="c", boxes=boxes)
        assert given.endswith("[System]\n" + rules[rule]["prompt"].replace(" \n", "\n"))
