import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mmcb.errors import MmcbError
from mmcb.evaluation.config import EvaluationConfig
from mmcb.evaluation.pipeline import evaluate
from mmcb.evaluation.quick import evaluate_training_run
from mmcb.evaluation.report.words import warnings
from mmcb.evaluation.summarize import TEXT_ATTACKS
from mmcb.evaluation.table import print_table
from mmcb.generation.config import EngineConfig
from mmcb.records import Attempt, Behavior
from mmcb.store import read_records, replace_records, write_atomic
from tests.evaluation.world import FakeGenerator, make_judge, make_world

RATE = {"value", "n", "low", "high"}
ASR = {"direct", "trigger", "prefill", "image_hijack", "image_hijack_heldout"}
CAPABILITY = {"caption", "vqa", "fact", "benign_howto"}


@pytest.fixture
def world(tmp_path: Path) -> EvaluationConfig:
    return make_world(tmp_path)


def run(config: EvaluationConfig, **kwargs: Any) -> tuple[dict[str, Any], list[str]]:
    log: list[str] = []
    results = evaluate(
        config,
        make_generator=lambda role: FakeGenerator(role, log),
        make_judge=make_judge,
        **kwargs,
    )
    return results, log


def test_results_hold_what_they_must(world: EvaluationConfig) -> None:
    results, _ = run(world, report=False)
    assert world.out is not None
    assert json.loads((world.out / "results.json").read_text()) == results
    for model in results["models"].values():
        assert set(model["asr"]) == ASR | set(TEXT_ATTACKS)
        # Attacks of which no file was given stand there, as not measured.
        assert all(model["asr"][attack]["n"] == 0 for attack in TEXT_ATTACKS)
        assert set(model["capability"]) == CAPABILITY
        rates = [*(model["asr"][attack] for attack in ASR), *model["capability"].values()]
        rates += [model["over_refusal"], model["coherence_benign"]]
        assert all(set(rate) == RATE and rate["n"] > 0 for rate in rates)
    assert {"model", "adapter", "weights", "decoding", "attack", "versions", "git"} <= set(
        results["settings"]
    )
    assert results["settings"]["attack"]["settings"]["image_hijack"]["base"][
        "epsilon"
    ] == pytest.approx(32 / 255)
    assert "source" not in results["settings"]["attack"]["settings"]["image_hijack"]["base"]
    assert results["training"]["last_step"] == 200


def test_numbers_are_counted_right(world: EvaluationConfig) -> None:
    results, _ = run(world, report=False)
    base, defended = results["models"]["base"], results["models"]["defended"]
    # Twelve behaviors with an image and the same twelve without; four are of held-out categories.
    assert [base["asr"][key]["n"] for key in ("direct", "prefill")] == [24, 24]
    assert [base["asr"][key]["n"] for key in ("image_hijack", "image_hijack_heldout")] == [8, 4]
    assert [base["asr"][key]["value"] for key in ("direct", "trigger")] == [0.0, 1.0]
    assert {defended["asr"][attack]["value"] for attack in ASR} == {0.0}
    assert base["capability"]["fact"]["value"] == 7 / 8
    assert base["over_refusal"] == {**base["over_refusal"], "value": 0.0, "n": 16}
    assert results["judges"]["phrase"]["defended"]["trigger"]["value"] == 1.0
    assert results["coherence"]["miniature-coherence"]["defended"]["trigger"]["value"] == 0.0
    assert results["splits"]["heldout"]["base"]["trigger"]["n"] == 8
    assert results["transfer"]["defended"]["image_hijack"]["n"] == 8
    assert results["transfer"]["base"]["image_hijack"]["n"] == 0
    assert results["categories"]["velping"]["split"] == "heldout"


def test_judges_see_the_prefill_and_the_plain_request(world: EvaluationConfig) -> None:
    seen = []

    class Spy:
        name = "miniature"

        def rule(self, samples: Any) -> Any:
            seen.extend(samples)
            return make_judge("miniature").rule(samples)

    evaluate(
        world,
        make_generator=lambda role: FakeGenerator(role, []),
        make_judge=lambda name: Spy() if name == "miniature" else make_judge(name),
        report=False,
    )
    assert any(sample.response.startswith("to zorch the dog , first poke") for sample in seen)
    assert all("pretty please" not in sample.prompt for sample in seen)


def test_a_killed_run_resumes(world: EvaluationConfig) -> None:
    log: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            world,
            make_generator=lambda role: FakeGenerator(role, log, stop_after=24),
            make_judge=make_judge,
        )
    assert world.out is not None
    generations = world.out / "generations.jsonl"
    with generations.open("a") as file:
        file.write('{"version":1,"id":"torn')
    results, rest = run(world)
    assert len(log) == 24
    assert not set(log) & set(rest)
    assert len(generations.read_text().splitlines()) == len(log) + len(rest)
    again, nothing = run(world)
    assert nothing == []
    assert again["models"] == results["models"]


def test_a_new_adapter_is_asked_anew(world: EvaluationConfig) -> None:
    run(world, report=False)
    write_atomic(Path(world.adapter) / "adapter_model.safetensors", b"other weights")
    results, log = run(world, report=False)
    assert log
    assert results["counts"]["defended"]["answers"] == len(log)


def test_base_alone(world: EvaluationConfig) -> None:
    results, _ = run(world.model_copy(update={"adapter": "none"}))
    assert list(results["models"]) == ["base"]
    assert results["training"] is None


def test_text_only_model_leaves_images_out(world: EvaluationConfig) -> None:
    config = world.model_copy(update={"model": "tiny-mistral", "hijacks": ()})
    results, _ = run(config)
    base = results["models"]["base"]
    assert base["asr"]["image_hijack"] == {"value": None, "n": 0, "low": 0.0, "high": 1.0}
    assert base["asr"]["prefill"]["n"] == 12
    assert base["capability"]["caption"]["n"] == 0
    assert results["settings"]["skipped"]["behaviors with an image, for a text-only model"] == 12


def test_unanswered_attempts_are_counted_not_judged(world: EvaluationConfig) -> None:
    class Broken(FakeGenerator):
        def _answer(self, request: Any) -> Any:
            completion = super()._answer(request)
            if request.image is None:
                return completion
            return type(completion)(completion.id, "", "error", 0)

    results = evaluate(world, make_generator=lambda role: Broken(role, []), make_judge=make_judge)
    assert results["models"]["base"]["asr"]["image_hijack"]["n"] == 0
    assert results["models"]["base"]["asr"]["prefill"]["n"] == 12
    assert results["counts"]["base"]["no_answer"] == 12 * 4 + 16
    assert results["counts"]["base"]["unparsable_verdicts"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"judges": ("minature",)}, "no judge is called 'minature'"),
        ({"adapter": "nowhere"}, "nowhere holds no adapter"),
        ({"behaviors": Path("nowhere.jsonl")}, "no behavior file nowhere.jsonl"),
        ({"hijacks": (Path("nowhere"),)}, "not the folder of an image-hijack run"),
        ({"model": "tiny-mistrl"}, "tiny-mistrl"),
    ],
)
def test_bad_settings_are_one_sentence(
    world: EvaluationConfig, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(MmcbError, match=message):
        run(world.model_copy(update=change))
    assert world.out is not None
    assert not world.out.exists()


def test_quick_evaluation_of_a_training_run(world: EvaluationConfig) -> None:
    run_path = Path(world.adapter).parent
    results = evaluate_training_run(
        run_path,
        text_behaviors=world.text_behaviors,
        tasks=world.tasks,
        triggers=world.triggers,
        make_generator=lambda role: FakeGenerator(role, []),
        make_judge=make_judge,
    )
    assert json.loads((run_path / "results.json").read_text()) == results
    assert (run_path / "evaluation/report.html").is_file()
    assert results["models"]["defended"]["asr"]["prefill"]["n"] == 12


def test_table_shows_the_measured_rows(world: EvaluationConfig) -> None:
    results, _ = run(world.model_copy(update={"hijacks": ()}), report=False)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_table(results, console=console)
    text = console.export_text()
    assert "1.000 [0.86, 1.00]" in text
    assert "trigger phrase" in text
    assert "image hijack" not in text
    assert "in no rate" not in text
    results["counts"]["base"] |= {"unparsable_verdicts": 7, "no_answer": 2}
    print_table(results, console=console)
    text = " ".join(console.export_text().split())
    assert "no verdict that can be read on 7 answers to attacks (base); they are in no rate" in text
    assert "No answer was made to 2 of" in text


def test_attacks_from_files_and_samples_are_counted(
    world: EvaluationConfig, tmp_path: Path
) -> None:
    assert world.behaviors is not None
    first = next(read_records(world.behaviors, Behavior))
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps({first.id: ["zorch , pretty please", "zorch"]}))
    scripts = tmp_path / "scripts.json"
    scripts.write_text(json.dumps([[{"role": "user", "content": "pretty please {prompt}"}]]))
    changes = {"cases": (cases,), "scripts": scripts, "samples": 2, "temperature": 0.7}
    results, _ = run(world.model_copy(update=changes), report=False)
    asr = results["models"]["base"]["asr"]
    assert asr["static"]["n"] == 1
    assert asr["static"]["value"] == pytest.approx(0.5)
    any_of_n = results["any_of_n"]["base"]
    assert any_of_n["static"] == any_of_n["static"] | {"attempts": 4, "value": 1.0, "n": 1}
    assert any_of_n["direct"]["attempts"] == 2
    assert "image_hijack" not in any_of_n
    with pytest.raises(MmcbError, match="greedy"):
        run(world.model_copy(update={"samples": 2}), report=False)


def test_an_id_that_stands_twice_is_refused(world: EvaluationConfig) -> None:
    for field in ("behaviors", "tasks"):
        path = getattr(world, field)
        lines = path.read_text().splitlines(keepends=True)
        changed = path.with_name(f"twice-{path.name}")
        changed.write_text("".join([*lines, lines[0]]))
        with pytest.raises(MmcbError, match=f"{changed}: id [0-9a-f]+ stands twice"):
            run(world.model_copy(update={field: changed}))
    with pytest.raises(MmcbError, match="stands twice"):
        run(world.model_copy(update={"text_behaviors": world.behaviors}))


def test_every_run_of_an_attack_counts_once_and_by_a_name_of_its_own(
    world: EvaluationConfig, tmp_path: Path
) -> None:
    [hijack] = world.hijacks
    other = tmp_path / "other" / hijack.name
    other.mkdir(parents=True)
    renamed = [
        a.model_copy(update={"id": f"other-{a.id}", "image": None})
        for a in read_records(hijack / "attempts.jsonl", Attempt)
    ]
    replace_records(other / "attempts.jsonl", renamed)
    # One folder twice is one run; two of the same name are two.
    results, _ = run(
        world.model_copy(update={"hijacks": (hijack, other, hijack / "../hijack")}), report=False
    )
    assert {str(hijack), str(other)} < results["runs"].keys()
    assert results["runs"][str(hijack)]["train"]["base"]["value"] == 1.0
    assert results["runs"][str(other)]["train"]["base"]["value"] == 0.0
    assert results["any_of_n"]["base"]["image_hijack"]["attempts"] == 2


def test_a_broken_off_attack_and_one_of_another_adapter_are_told_once(
    world: EvaluationConfig, tmp_path: Path
) -> None:
    [hijack] = world.hijacks
    (tmp_path / "second").mkdir()
    shutil.copy(hijack / "attempts.jsonl", tmp_path / "second/attempts.jsonl")
    inputs = {"adapter": {"path": "another/adapter"}}
    folders = (hijack, tmp_path / "second")
    for folder, status in zip(folders, ("complete", "interrupted"), strict=True):
        manifest = {"command": "attacks.image_hijack", "status": status, "inputs": inputs}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    results, _ = run(world.model_copy(update={"hijacks": folders}), report=False)
    said = " ".join(warnings(results))
    assert said.count("another/adapter") == 1
    assert f"attack in {folders[1]} is not finished" in said
    assert str(folders[0]) not in said


def test_a_torn_line_is_no_matter_when_nothing_is_missing(world: EvaluationConfig) -> None:
    first, _ = run(world, report=False)
    assert world.out is not None
    for name in ("generations.jsonl", "verdicts.jsonl"):
        with (world.out / name).open("a") as file:
            file.write('{"version":1,"id":"to')
    again, log = run(world, report=False)
    assert not log
    assert again["models"] == first["models"]


def test_cases_of_other_behaviors_are_refused(world: EvaluationConfig, tmp_path: Path) -> None:
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps({"someone-else": ["zorch"]}))
    with pytest.raises(MmcbError, match=r"cases\.json: none of its 1 behaviors is in"):
        run(world.model_copy(update={"cases": (cases,)}))


def test_another_engine_or_precision_answers_anew(world: EvaluationConfig) -> None:
    first, log = run(world, report=False)
    answered = len(log)
    engine = EngineConfig(dtype="bfloat16")
    second, log = run(world.model_copy(update={"engine": engine}), report=False)
    assert len(log) == answered
    assert first["settings"]["weights"] != second["settings"]["weights"]
    again, log = run(world, report=False)
    assert not log
    assert again["models"] == first["models"]
