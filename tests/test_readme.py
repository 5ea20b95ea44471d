"""The README's commands, executed: on the miniature world in small, on photographs, and without.

Those of one block run one after the other in one process, which imports torch once.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What makes a command small enough for a test.
SMALL = {
    "mmcb.miniature": "--num-train 24 --num-val 8 --num-test 8 --num-behaviors 4 --num-tasks 4"
    " --num-instructions 20",
    "mmcb.synthesis": "--num-images 16",
    "mmcb.training": "--steps 4",
    "mmcb.attacks.image_hijack": "--steps 3",
    "mmcb.evaluation": "--limit 2",
}
# As `python -m` runs them, until one fails.
ALL = """
import json, runpy, sys
for module, *arguments in json.loads(sys.argv[1]):
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code:
            sys.exit(stop.code)
"""


def _block_with(command: str) -> list[str]:
    """The one bash block of the README that holds this command, command by command."""
    whole = README.replace("\\\n", "")  # a command that goes on in the next line
    found = re.findall(r"```bash\n(.*?)```", whole, flags=re.DOTALL)
    [block] = [b for b in found if command in b.splitlines()]
    return block.splitlines()


def _run(commands: list[str], *, folder: Path, small: bool = True) -> tuple[int, str]:
    """Run the commands until one fails; returns its code, or 0, and what was said."""
    lines = []
    for command in commands:
        python, dash_m, module, *arguments = shlex.split(command)
        assert (python, dash_m) == ("python", "-m")
        lines.append([module, *arguments, *shlex.split(SMALL.get(module, "") if small else "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore::RuntimeWarning:runpy", "-c", ALL, json.dumps(lines)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


def _succeed(commands: list[str], *, folder: Path) -> None:
    code, said = _run(commands, folder=folder)
    assert code == 0, said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one command after another is run, as the README tells it."""
    folder = tmp_path_factory.mktemp("readme")
    _succeed(_block_with("python -m mmcb.miniature"), folder=folder)
    return folder


def test_step_by_step_ends_in_a_report(folder: Path) -> None:
    [results] = folder.glob("runs/evaluation/*/results.json")
    models = json.loads(results.read_text())["models"]
    assert set(models) == {"base", "defended"}
    assert models["defended"]["asr"]["image_hijack"]["n"] == 2
    assert models["defended"]["asr"]["image_hijack_heldout"]["n"] == 2
    assert results.with_name("report.html").is_file()


def test_the_same_training_on_a_text_only_model(folder: Path) -> None:
    _succeed(_block_with("python -m mmcb.training --model tiny-mistral"), folder=folder)
    [results] = folder.glob("runs/training/tiny-mistral-*/results.json")
    for model in json.loads(results.read_text())["models"].values():
        assert model["asr"]["prefill"]["value"] is not None
        assert model["asr"]["image_hijack"]["n"] == 0


def test_what_cannot_be_had_is_said_in_one_sentence(tmp_path: Path) -> None:
    for command in _block_with("python -m mmcb.training --model llava-next"):
        code, said = _run([command], folder=tmp_path, small=False)
        assert code == 2, command
        error, hint = said.splitlines()
        assert error.startswith("error: ")
        assert "python -m mmcb." in hint
        assert "tiny-llava-next" in hint
    assert not list(tmp_path.iterdir())


def test_photographs(folder: Path, shared_data: Path) -> None:
    (folder / "data" / "coco").symlink_to(shared_data / "coco")
    _succeed(
        _block_with("python -m mmcb.captioning --coco-root data/coco --source coco"), folder=folder
    )
    assert (folder / "data/synthesis/coco/retain.jsonl").stat().st_size > 0
    pictures = list(folder.glob("runs/attacks.image_hijack/*/images/defended/*.png"))
    assert len(pictures) == 4  # as many as this small world has behaviors


def test_make_targets_exist() -> None:
    targets = re.findall(r"^ {4}make (\w+)", README, flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
