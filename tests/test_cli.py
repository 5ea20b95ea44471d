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

import pytest

from mmcb.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
SNAPSHOT = ROOT / "tests" / "snapshots" / "cli_options.txt"
# Run as `python -m` runs it, and look at what help has imported.
ASK = """
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = [name for name in ("torch", "transformers", "peft", "datasets") if name in sys.modules]
assert not heavy, f"--help imports {heavy}"
"""


@cache
def ask(*args: str) -> subprocess.CompletedProcess[str]:
    """Run a module with arguments, wide enough that no sentence of help is broken."""
    environment = {**os.environ, "COLUMNS": "1000", "NO_COLOR": "1"}
    command = [sys.executable, "-c", ASK, *args]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@cache
def options(command: str) -> dict[str, str]:
    """Return a command's flags, each with what help says of it."""
    found: dict[str, str] = {}
    flag = ""
    done = ask(f"mmcb.{command}", "--help")
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
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
    done = ask(f"mmcb.{command}", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_table_runs_the_same_command(command: str) -> None:
    through_table = ask("mmcb", command, "--help")
    assert through_table.returncode == 0, through_table.stderr
    assert through_table.stdout == ask(f"mmcb.{command}", "--help").stdout


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
    done = ask("mmcb.training", "--model", model, "--steps", "10", "--recipe")
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
