"""The card and the report of a run: true to its files, whole, and safe to show."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmcb.errors import MmcbError
from mmcb.store import file_hash, folder_hash
from mmcb.training.card import render_card
from mmcb.training.facts import read_facts
from mmcb.training.outputs import write_outputs
from mmcb.training.report import headline, render_report
from mmcb.training.run import train
from mmcb.training.trainer import read_metrics
from tests.training.helpers import tiny_config

RATE = {"value": 0.25, "n": 8, "low": 0.0715, "high": 0.5907}
NOTHING = {"value": None, "n": 0, "low": 0.0, "high": 1.0}


@pytest.fixture(scope="module")
def run(
    model_folders: dict[str, Path], data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("outputs") / "run"
    return train(
        tiny_config(model=str(model_folders["vlm"]), data=data_folder, out=out, merge=True)
    )


@pytest.fixture
def evaluated(run: Path) -> Any:
    """Write results.json as an evaluation of some adapter does; taken away afterwards."""

    def write(*, of: str | None = None) -> None:
        model = {
            "asr": {"direct": RATE, "image_hijack": NOTHING},
            "capability": {"vqa": RATE, "fact": NOTHING},
            "over_refusal": RATE,
            "coherence_benign": RATE,
        }
        defended = f"vlm+{of or folder_hash(run / 'adapter')}"
        results = {
            "models": {"base": model, "defended": {**model, "over_refusal": NOTHING}},
            "judges": {"miniature": {}, "phrase": {}},
            "settings": {
                "weights": {"base": "vlm", "defended": defended},
                "engine": "transformers",
                "decoding": {"temperature": 0.0},
            },
        }
        (run / "results.json").write_text(json.dumps(results))

    yield write
    (run / "results.json").unlink(missing_ok=True)


def metadata_of(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_run_leaves_its_report_and_a_card_beside_each_set_of_weights(run: Path) -> None:
    for name in ("report.html", "adapter/README.md", "merged/README.md"):
        assert (run / name).stat().st_size > 1000, name
    assert metadata_of((run / "adapter/README.md").read_text())["library_name"] == "peft"
    merged = (run / "merged/README.md").read_text()
    assert metadata_of(merged)["library_name"] == "transformers"
    assert "PeftModel" not in merged


def test_the_card_tells_every_value_of_the_recipe_and_the_data(run: Path) -> None:
    card = (run / "adapter/README.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", card, flags=re.MULTILINE))
    recipe = json.loads((run / "recipe.json").read_text())
    for name, value in recipe.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        told = rows[name.replace("_", " ")].replace("\\", "")
        assert told == str(shown) or float(told) == float(shown), name
    manifest = json.loads((run / "manifest.json").read_text())
    assert file_hash(run / "adapter/adapter_model.safetensors") in card
    assert manifest["model_revision"] in card
    for part in manifest["sources"]:
        assert f"| {part['train']} | {part['heldout']} | `{part['hash']}` |" in card
    for entry in manifest["inputs"].values():
        assert entry["sha256"] in card
    assert f"{manifest['examples']['train']} training examples" in card


def test_the_cards_figures_are_those_of_the_metrics(run: Path) -> None:
    card, rows = (run / "adapter/README.md").read_text(), read_metrics(run)
    first, last = rows[0]["retain_cosine"], rows[-1]["retain_cosine"]
    trained = f"| cosine to the frozen model, benign tokens | {first:.4g} | {last:.4g} |"
    assert trained in card
    held = [row["heldout_reroute_cosine"] for row in rows if "heldout_reroute_cosine" in row]
    assert f"| {held[0]:.4g} (step 2) | {held[-1]:.4g} (step 4) |" in card


def test_no_folder_of_this_disk_is_in_what_may_be_published(run: Path) -> None:
    for folder in ("adapter", "merged"):
        assert str(run) not in (run / folder / "README.md").read_text()
    card = (run / "adapter/README.md").read_text()
    assert str(run.parents[1]) not in card
    assert "circuit\\_breaker.jsonl" in card


def test_a_card_without_an_evaluation_says_so(run: Path) -> None:
    card = render_card(read_facts(run), merged=False)
    assert "This run was not evaluated" in card
    assert "Wilson" not in card


def test_the_card_tells_what_an_evaluation_measured_and_nothing_else(
    run: Path, evaluated: Any
) -> None:
    evaluated()
    write_outputs(run)
    card = (run / "adapter/README.md").read_text()
    shown = "25.0 % (7.1 to 59.1), n = 8"
    assert f"| attack success: direct | {shown} | {shown} |" in card
    assert f"| benign requests refused | {shown} | - |" in card
    assert "image hijack |" not in card  # nobody was attacked with one
    assert "right: fact" not in card
    assert "judged by miniature, phrase" in card
    assert "not evaluated" not in card


def test_results_of_another_adapter_are_not_told(run: Path, evaluated: Any) -> None:
    evaluated(of="0123456789ab")
    assert "This run was not evaluated" in render_card(read_facts(run), merged=False)


def test_names_cannot_become_markup(run: Path, tmp_path: Path) -> None:
    for name in ("recipe.json", "metrics.jsonl"):
        (tmp_path / name).write_text((run / name).read_text())
    manifest = json.loads((run / "manifest.json").read_text())
    evil = "a|b <script>alert(1)</script>\n# [x](http://evil) `"
    manifest["left_out"] = {evil: 3}
    manifest["sources"][0]["source"] = f"chat:{evil.replace('/', '')}"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    facts = read_facts(tmp_path)
    card, page = render_card(facts, merged=False), render_report(facts)
    assert "<script>" not in card
    assert "<script>" not in page
    assert "\n# [x]" not in card
    assert "](http://evil)" not in card.replace("\\]", "")
    assert "&lt;script&gt;" in page


def test_the_report_is_one_file_with_every_curve(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert page.count("<svg") == 8
    for title in ("Reroute loss", "Cosine, validation", "Norm of", "Gradient norm", "Tokens a"):
        assert f"<b>{title}" in page
    assert "default-src 'none'" in page
    links = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert all(link.startswith("#") for link in links), links
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert "lora rank" in page
    assert file_hash_of_inputs(run) <= set(re.findall(r"[0-9a-f]{64}", page))


def file_hash_of_inputs(run: Path) -> set[str]:
    manifest = json.loads((run / "manifest.json").read_text())
    return {entry["sha256"] for entry in manifest["inputs"].values()}


def test_a_run_that_failed_has_a_report_that_says_why(
    model_folders: dict[str, Path], data_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        model=str(model_folders["llm"]), data=data_folder, out=tmp_path / "run",
        steps=60, escape_weight=0.0, learning_rate=1e-9, validate_every=0,
    )  # fmt: skip
    with pytest.raises(MmcbError, match="has not left its saddle"):
        train(config)
    facts = read_facts(tmp_path / "run")
    assert headline(facts).startswith("The run failed at step 60: MmcbError: step 60")
    assert "has not left its saddle" in (tmp_path / "run/report.html").read_text()
    assert not (tmp_path / "run/adapter").exists()


def test_the_adapter_names_its_base_as_the_user_did(run: Path) -> None:
    config = json.loads((run / "adapter/adapter_config.json").read_text())
    assert (
        config["base_model_name_or_path"] == json.loads((run / "config.json").read_text())["model"]
    )
    assert config["revision"] is None
