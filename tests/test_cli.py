"""Every command's help answers without torch, explains each flag, and keeps its flags.

The flags are an API: tests/snapshots/cli_options.txt holds them with their defaults. After a wanted
change write it anew with `MMCB_UPDATE_SNAPSHOTS=1 python -m pytest tests/test_cli.py`.
"""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mmcb.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
SNAPSHOT = ROOT / "tests" / "snapshots" / "cli_options.txt"
# Run as `python -m` runs it, and look at what it has imported.
ASK = """
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = [name for name in ("torch", "transformers", "peft", "datasets") if name in sys.modules]
assert not heavy, f"it imports {heavy}"
"""
# All in one process: to start one for each command takes longer than all that they say.
ASK_ALL = """
import contextlib, io, json, runpy, sys
HEAVY = ("torch", "transformers", "peft", "datasets")
answers = {}
for line in sys.argv[1:]:
    module, *arguments = line.split()
    sys.argv = [module, *arguments]
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # StringIO gets boxes of ASCII
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    said.flush()
    heavy = [name for name in HEAVY if sys.modules.pop(name, None)]
    answers[line] = {"code": code, "said": said.buffer.getvalue().decode(), "heavy": heavy}
print(json.dumps(answers))
"""


def _run(*args: str) -> subprocess.CompletedProcess[str]:
    """Run code with arguments, wide enough that no sentence of help is broken."""
    environment = {**os.environ, "COLUMNS": "1000", "NO_COLOR": "1"}
    command = [sys.executable, "-W", "ignore::RuntimeWarning:runpy", "-c", *args]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@cache
def answers() -> dict[str, dict[str, Any]]:
    """What each command answers to --help, by itself and through the table."""
    direct = [f"mmcb.{command} --help" for command in COMMANDS]
    through_table = [f"mmcb {command} --help" for command in COMMANDS]
    done = _run(ASK_ALL, *direct, *through_table)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@cache
def options(command: str) -> dict[str, str]:
    """Return a command's flags, each with what help says of it."""
    found: dict[str, str] = {}
    flag = ""
    for line in answers()[f"mmcb.{command} --help"]["said"].splitlines():
        text = line.strip("\u2502 ").rstrip()
        if match := re.match(r"(?:-\w, )?--([\w.-]+)(?:, --no-[\w.-]+)?(.*)", text):
            flag, rest = match.groups()
            # Help stands two or more columns after the flag, or on the next line.
            found[flag] = rest.partition("  ")[2].strip()
        elif flag and text and line.startswith("\u2502  ") and not found[flag]:
            found[flag] = text
        else:
            flag = ""
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_without_torch(command: str) -> None:
    answer = answers()[f"mmcb.{command} --help"]
    assert (answer["code"], answer["heavy"]) == (0, [])
    assert answer["said"].startswith(f"usage: mmcb {command} ")


@pytest.mark.parametrize("command", COMMANDS)
def test_table_runs_the_same_command(command: str) -> None:
    assert answers()[f"mmcb {command} --help"] == answers()[f"mmcb.{command} --help"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_has_a_sentence_and_its_default(command: str) -> None:
    found = options(command)
    assert {"help", "config"} <= found.keys()
    for flag, text in found.items():
        if flag != "help":
            sentence, default, _ = text.rpartition("(default: ")
            assert default or text.endswith("(required)"), f"--{flag} shows no default: {text!r}"
            assert sentence.strip().endswith((".", "?")) or not default, f"--{flag}: {text!r}"


@pytest.mark.parametrize("model", ["llava-next", "tiny-mistral"])
def test_the_recipe_is_printed_without_weights_or_torch(model: str) -> None:
    done = _run(ASK, "mmcb.training", "--model", model, "--steps", "10", "--recipe")
    assert done.returncode == 0, done.stderr
    recipe = json.loads(done.stdout)
    assert (recipe["steps"], recipe["horizon"]) == (10, 20)
    assert recipe["target_layers"] == ([16] if model == "llava-next" else [4, 6])
    assert None not in recipe.values()
    assert "recipe.json" in done.stderr


def test_flags_are_those_of_the_snapshot() -> None:
    lines = [
        f"{command} --{flag} {text[text.rfind('(') :]}"
        for command in COMMANDS
        for flag, text in options(command).items()
        if flag not in ("help", "config")
    ]
    now = "\n".join(lines) + "\n"
    if os.environ.get("MMCB_UPDATE_SNAPSHOTS"):
        SNAPSHOT.parent.mkdir(exist_ok=True)
        SNAPSHOT.write_text(now, encoding="utf-8")
    assert now == SNAPSHOT.read_text(encoding="utf-8")
