"""A real run from mixed sources: what it trains on, and what it says of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmcb.errors import MmcbError
from mmcb.run_folder import read_manifest
from mmcb.store import file_hash
from mmcb.training.run import train
from mmcb.training.trainer import read_metrics
from tests.training.source_files import sources_config, upstream_rows, write_all, write_json


@pytest.fixture
def settings(tmp_path: Path, model_folders: dict[str, Path]) -> dict[str, Any]:
    files = write_all(tmp_path)
    return {
        "model": str(model_folders["vlm"]), "out": tmp_path / "run", "steps": 3, "max_length": 40,
        "circuit_breaker_data": [files["upstream"]], "image_folder": tmp_path / "pictures",
        "retain_data": [files["llava"], files["chat"] + "@4", files["xstest"] + "@5",
                        files["upstream"] + "@2"],
        "no_request_fraction": 0.5,
    }  # fmt: skip


def test_a_run_from_mixed_sources(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="mmcb"):
        run = train(sources_config(**settings))
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["images"] > 0 for row in rows] == [True, False, True]
    manifest = read_manifest(run)
    assert manifest["status"] == "complete"
    assert manifest["examples"] == {"train": 23, "heldout": 0}
    told = [(part["kind"], part["train"], part["no_request"]) for part in manifest["sources"]]
    assert told == [
        ("circuit_breaker", 6, 3), ("retain", 6, 3), ("retain", 4, 2), ("retain", 5, 2),
        ("retain", 2, 1),
    ]  # fmt: skip
    upstream = tmp_path / "circuit_breakers_train.json"
    assert manifest["inputs"]["circuit_breaker"]["sha256"] == file_hash(upstream)
    assert set(manifest["inputs"]) == {"circuit_breaker", *(f"retain_{n}" for n in range(1, 5))}
    saved = json.loads((run / "config.json").read_text())
    assert [source["format"] for source in saved["retain_data"]] == [
        "llava", "chat", "xstest", "upstream",
    ]  # fmt: skip
    truncated = manifest["truncated"]
    assert truncated["train"]["retain"] > 0  # the chats' two turns are longer than 40 tokens
    assert truncated["heldout"] == {}
    assert f"and {truncated['train']['retain']} retain examples after 40 text tokens" in caplog.text
    assert "retain: 5 training examples of 4 records in xstest:" in caplog.text


def test_a_run_is_not_resumed_on_other_data(settings: dict[str, Any], tmp_path: Path) -> None:
    train(sources_config(**settings))
    write_json(tmp_path / "circuit_breakers_train.json", upstream_rows()[1:])
    with pytest.raises(MmcbError, match="changed since this run started"):
        train(sources_config(**settings))


def test_a_set_of_the_hub_that_changed_is_noticed(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    rows = upstream_rows()
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **options: datasets.Dataset.from_list(rows)
    )
    config = sources_config(**{**settings, "circuit_breaker_data": ["upstream:some/harm"]})
    run = train(config)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    train(config)
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    rows.pop()
    with pytest.raises(MmcbError, match="upstream:some/harm no longer gives what this run"):
        train(config)


def test_mmcbs_own_folder_may_be_moved_while_a_run_rests(
    settings: dict[str, Any], data_folder: Path, tmp_path: Path
) -> None:
    own = {**settings, "circuit_breaker_data": (), "retain_data": (), "steps": 1}
    run = train(sources_config(**own, data=data_folder))
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    shutil.copytree(data_folder, tmp_path / "moved")
    train(sources_config(**own, data=tmp_path / "moved"))
    sources = read_manifest(run)["sources"]
    assert [part["source"] for part in sources] == [
        f"mmcb:{tmp_path / 'moved' / name}" for name in ("circuit_breaker.jsonl", "retain.jsonl")
    ]
    assert set(read_manifest(run)["inputs"]) == {"circuit_breaker", "retain"}
