"""A run's folder: what the manifest says at every ending, resuming, finding the newest."""

import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcb import run_folder as runs
from mmcb.config import Config
from mmcb.errors import MmcbError
from mmcb.run_folder import RunDir, git_state, newest_run, read_manifest
from mmcb.store import locked


class Settings(Config):
    model: str = "tiny"
    """The model."""
    batch_size: int = 4
    """Examples at once."""


def start(path: Path, **changes: object) -> RunDir:
    return RunDir.start(path, command="training", config=Settings.model_validate(changes))


def test_a_new_run_says_what_it_is(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    run = RunDir.start(
        tmp_path / "run", command="training", config=Settings(), inputs={"data": data}
    )
    manifest = read_manifest(run.path)
    assert manifest["status"] == "started"
    assert manifest["finished"] is None
    assert manifest["inputs"]["data"]["path"] == str(data)
    assert len(manifest["inputs"]["data"]["sha256"]) == 64
    assert set(manifest["versions"]) == {"mmcb", *runs.PACKAGES}
    assert manifest["versions"]["pillow"]
    assert manifest["config"] == {"model": "tiny", "batch_size": 4}
    assert set(manifest["git"]) == {"commit", "dirty"}
    assert Settings.model_validate_json((run.path / "config.json").read_text()) == Settings()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "complete"),
        (KeyboardInterrupt(), "interrupted"),
        (RuntimeError("boom"), "failed"),
        (MmcbError("no image"), "failed"),
        (SystemExit(2), "failed"),
    ],
)
def test_status_at_the_end(tmp_path: Path, error: BaseException | None, status: str) -> None:
    def work() -> None:
        with start(tmp_path / "run"):
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    manifest = read_manifest(tmp_path / "run")
    assert manifest["status"] == status
    assert manifest["finished"] >= manifest["started"]
    if status == "failed":
        assert manifest["error"].startswith(type(error).__name__)
    else:
        assert "error" not in manifest


def test_resuming_keeps_the_start_and_notes(tmp_path: Path) -> None:
    def fail() -> None:
        with start(tmp_path / "run") as run:
            run.note("examples", 12)
            run.log_metrics({"step": 1, "loss": 0.5})
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        fail()
    first = read_manifest(tmp_path / "run")
    with start(tmp_path / "run") as run:
        assert run.previous_status == "failed"
        run.log_metrics({"step": 2, "loss": 0.25})
    second = read_manifest(tmp_path / "run")
    assert second["started"] == first["started"]
    assert second["examples"] == 12
    assert len(second["resumed"]) == 1
    assert second["status"] == "complete"
    assert "error" not in second
    lines = run.file("metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert start(tmp_path / "run").previous_status == "complete"


def test_other_settings_are_not_mixed_into_a_run(tmp_path: Path) -> None:
    start(tmp_path / "run")
    with pytest.raises(MmcbError, match="batch_size was 4, now 8") as caught:
        start(tmp_path / "run", batch_size=8)
    assert caught.value.hint
    with pytest.raises(MmcbError, match="holds a run of `training`"):
        RunDir.start(tmp_path / "run", command="evaluation", config=Settings())
    run = RunDir.start(
        tmp_path / "run",
        command="training",
        config=Settings(batch_size=8),
        may_change=frozenset({"batch_size"}),
    )
    assert json.loads(run.file("config.json").read_text())["batch_size"] == 8


def test_changed_inputs_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"one")
    (folder / "picture.png").write_bytes(b"pixels")

    def begin() -> RunDir:
        inputs = {"adapter": folder}
        return RunDir.start(
            tmp_path / "run", command="evaluation", config=Settings(), inputs=inputs
        )

    begin()
    begin()
    (folder / "weights.safetensors").write_bytes(b"two")
    with pytest.raises(MmcbError, match="changed since this run started"):
        begin()
    with pytest.raises(MmcbError, match="no such file or folder"):
        RunDir.start(
            tmp_path / "b", command="x", config=Settings(), inputs={"data": tmp_path / "gone"}
        )
    assert not (tmp_path / "b").exists()


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with start(path) as run:
        before = (path / "manifest.json").read_bytes()
        with pytest.raises(MmcbError, match="another process is working in"):
            start(path)
        assert (path / "manifest.json").read_bytes() == before
        sent = pickle.loads(pickle.dumps(run))
    assert start(path).previous_status == "complete"
    with locked(path), pytest.raises(MmcbError, match="another process"):
        start(path)
    assert sent.path == path


def test_notes_do_not_hide_the_manifests_own_keys(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    assert set(read_manifest(run.path)) <= runs._OWN_KEYS
    with pytest.raises(ValueError, match="own key"):
        run.note("status", "complete")


def test_files_lie_in_the_folder(tmp_path: Path) -> None:
    file = start(tmp_path / "run").file("images/a.png")
    assert file == tmp_path / "run" / "images" / "a.png"
    assert file.parent.is_dir()


def test_only_rank_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with start(tmp_path / "run") as run:
        run.log_metrics({"loss": 1.0})
        run.note("key", 1)
    assert not (tmp_path / "run").exists()


def test_newest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(f"2026-01-01T00:00:{second:02d}" for second in range(60))
    monkeypatch.setattr(runs, "_now", lambda: next(times))
    root = tmp_path / "runs"
    assert newest_run(root, "training") is None
    for name, model in (("z-first", "tiny"), ("a-second", "tiny"), ("b-third", "large")):
        with start(root / "training" / name, model=model):
            pass
    start(root / "training" / "unfinished")
    (root / "training" / "other").mkdir()
    (root / "training" / "other" / "manifest.json").write_text("[]")

    def is_tiny(manifest: dict[str, object]) -> bool:
        config = manifest["config"]
        assert isinstance(config, dict)
        return bool(config["model"] == "tiny")

    find: Callable[..., Path | None] = newest_run
    assert find(root / "training", "training") == root / "training" / "b-third"
    assert find(root, "training", where=is_tiny) == root / "training" / "a-second"
    assert find(root, "training", status=None) == root / "training" / "unfinished"
    assert find(root, "evaluation") is None


def test_a_folder_without_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="not a run's folder"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(MmcbError, match="not JSON"):
        read_manifest(tmp_path)


def test_git_state_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "repo" / "mmcb"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(runs, "__file__", str(package / "__init__.py"))
    assert git_state() == {"commit": None, "dirty": None}

    def git(*args: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(package), *who, *args], check=True, capture_output=True)

    git("init")
    # Untracked, as a package inside some project's environment is: not our repository.
    assert git_state() == {"commit": None, "dirty": None}
    git("add", ".")
    git("commit", "-m", "first")
    clean = git_state()
    assert len(str(clean["commit"])) == 40
    assert clean["dirty"] is False
    (package / "new.py").touch()
    assert git_state() == {"commit": clean["commit"], "dirty": True}
