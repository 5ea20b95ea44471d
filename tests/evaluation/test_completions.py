import json
from pathlib import Path

from mmcb.attacks.static import read_cases
from mmcb.evaluation.completions import write_harmbench
from mmcb.evaluation.summarize import Judged
from mmcb.evaluation.verdicts import Item
from mmcb.records import Attempt, Generation, Provenance


def judged(
    name: str,
    attack: str,
    label: bool | None,
    *,
    image: str | None = None,
    failed: bool = False,
    run: str | None = None,
) -> Judged:
    attempt = Attempt.model_validate(
        {
            "id": f"{name}-{attack}-{run}",
            "behavior_id": name,
            "attack": attack,
            "model": "defended",
            "split": "heldout",
            "category": "zorching",
            "prompt": f"how do i {name} ?",
            "prefill": "to zorch" if attack == "prefill" else "",
            "image": image,
            "settings": {} if run is None else {"run": run},
        }
    )
    generation = Generation(
        id=f"g-{attempt.id}",
        attempt_id=attempt.id,
        model="defended",
        text=" it , fold it",
        finish_reason="error" if failed else "stop",
        num_tokens=4,
        provenance=Provenance(generator="fake"),
    )
    return Judged(Item(generation, attempt, None, None), {"phrase": label})


def test_answers_are_laid_out_as_harmbench_has_them(tmp_path: Path) -> None:
    image = tmp_path / "images" / "dog.png"
    image.parent.mkdir()
    image.touch()
    items = [
        judged("zorch", "direct", True),
        judged("zorch", "direct", False),
        judged("grindle", "direct", None),
        judged("grindle", "prefill", True),
        judged("flim", "image_hijack", True, image="images/dog.png"),
        judged("fact", "task", None),
        judged("quab", "direct", None, failed=True),
    ]
    out = tmp_path / "harmbench"
    write_harmbench(out, items, attempts_path=tmp_path / "attempts.jsonl", judge="phrase")
    direct = out / "DirectRequest" / "defended"
    results = json.loads((direct / "results/defended.json").read_text())
    assert {name: [e["label"] for e in entries] for name, entries in results.items()} == {
        "zorch": [1, 0],
        "grindle": [-1],
    }
    completions = json.loads((direct / "completions/defended.json").read_text())
    assert completions["grindle"] == [
        {"test_case": "how do i grindle ?", "generation": " it , fold it"}
    ]
    cases = json.loads((direct / "test_cases/test_cases.json").read_text())
    assert cases["zorch"] == ["how do i zorch ?"] * 2
    prefill = json.loads((out / "prefill/defended/completions/defended.json").read_text())
    assert prefill["grindle"][0]["generation"] == "to zorch it , fold it"
    path = out / "MultiModalPGD/defended/test_cases/test_cases.json"
    [[picture, prompt]] = json.loads(path.read_text())["flim"]
    assert (path.parent / picture).resolve() == image
    assert prompt == "how do i flim ?"
    [case] = read_cases(path)["flim"]
    assert case.prompt == prompt
    assert case.picture is not None
    assert case.picture.resolve() == image
    assert sorted(folder.name for folder in out.iterdir()) == [
        "DirectRequest",
        "MultiModalPGD",
        "prefill",
    ]


def test_two_runs_of_one_attack_are_two_methods(tmp_path: Path) -> None:
    items = [
        judged("zorch", "gcg", True, run="runs/a/gcg"),
        judged("zorch", "gcg", False, run="runs/b/gcg"),
        judged("zorch", "embedding", False, run="runs/c/e"),
    ]
    write_harmbench(tmp_path, items, attempts_path=tmp_path / "attempts.jsonl", judge="phrase")
    methods = ["embedding", "gcg-runs-a-gcg", "gcg-runs-b-gcg"]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == methods
    found = json.loads((tmp_path / methods[1] / "defended/results/defended.json").read_text())
    assert [entry["label"] for entry in found["zorch"]] == [1]
