"""The one command-line convention, on a command made up for the purpose, and the command table."""

import errno
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydantic import Field, model_validator

from mmcb import __main__, __version__
from mmcb.cli import EXIT_BROKEN_PIPE, parse_config, run_command
from mmcb.config import Config, UnitFraction
from mmcb.errors import MmcbError


class Sampling(Config):
    """How answers are sampled."""

    max_new_tokens: int = 256
    """The longest answer."""


class Settings(Config):
    """A made-up command."""

    model: str = "llava-next"
    """The model."""
    coco_root: Path = Path("data/coco")
    """The folder."""
    epsilon: UnitFraction = 32 / 255
    """The radius."""
    steps: int = Field(default=3, ge=1)
    """How many steps."""
    quick: bool = False
    """Whether to hurry."""
    sampling: Sampling = Sampling()
    """How answers are sampled."""

    @model_validator(mode="after")
    def _holds_together(self) -> "Settings":
        if self.quick and self.steps > 100:
            raise ValueError("quick takes at most 100 steps")
        return self


def preset(model: str) -> Settings:
    if model == "unknown":
        raise MmcbError("no model named unknown", hint="did you mean llava-next?")
    return Settings(model=model, steps=len(model), sampling=Sampling(max_new_tokens=64))


def parse(*args: str) -> Settings:
    return parse_config(Settings, args, prog="made-up", preset=preset, default_model="llava-next")


def test_no_flags_give_the_default_models_preset() -> None:
    assert parse() == preset("llava-next")


def test_flags_win_over_file_wins_over_preset(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"steps": 7, "epsilon": "4/255", "sampling": {"max_new_tokens": 9}}')
    config = parse("--model", "tiny", "--config", str(file), "--steps", "8", "--quick")
    assert config == Settings(
        model="tiny", steps=8, epsilon=4 / 255, quick=True, sampling=Sampling(max_new_tokens=9)
    )
    assert parse("--model=tiny").steps == len("tiny")


def test_the_file_names_the_model_whose_preset_holds(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model": "tiny"}')
    assert parse("--config", str(file)) == preset("tiny")


def test_a_runs_config_runs_it_again(tmp_path: Path) -> None:
    config = parse("--epsilon", "7/255", "--sampling.max-new-tokens", "5", "--coco-root", "x")
    file = tmp_path / "config.json"
    file.write_text(config.model_dump_json())
    assert parse("--config", str(file)) == config
    assert parse_config(Settings, ["--config", str(file)], prog="made-up") == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[]", "holds no settings"),
        ('{"stepz": 1}', "stepz"),
        ('{"sampling": {"max_new_tokens": "many"}}', r"sampling\.max_new_tokens"),
        ('{"quick": true, "steps": 101}', "quick takes at most 100 steps"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(MmcbError, match=message) as caught:
        parse("--config", str(file))
    assert str(file) in caught.value.message


@pytest.mark.parametrize("args", [("--steps", "0"), ("--quick", "--steps", "101")])
def test_settings_that_do_not_hold_together(args: Sequence[str]) -> None:
    with pytest.raises(MmcbError, match="the command line"):
        parse(*args)


@pytest.mark.parametrize("args", [("--nun", "1"), ("--epsilon", "3"), ("--steps", "x")])
def test_flags_that_are_not_understood_exit_2(
    args: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*args)
    assert caught.value.code == 2
    assert args[0] in capsys.readouterr().err


def test_help_shows_sentences_and_the_models_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        parse("--model", "tiny", "--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for piece in (
        "The radius. (default: 32/255)",
        "How many steps. (default: 4)",
        "--sampling.max-new-tokens INT",
        "--quick, --no-quick",
        "--config FILE",
    ):
        assert piece in text


def stop_with(error: BaseException) -> Callable[[Settings], None]:
    def main(_: Settings) -> None:
        raise error

    return main


def full_database() -> sqlite3.OperationalError:
    """What SQLite says when its file cannot grow."""
    database = sqlite3.connect("")
    database.execute("CREATE TABLE grown (text)")
    database.execute("PRAGMA max_page_count=2")
    try:
        database.execute("INSERT INTO grown VALUES (zeroblob(100000))")
    except sqlite3.OperationalError as error:
        return error
    raise AssertionError("it has grown")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MmcbError("no adapter yet", hint="mmcb training"), 2, "error: no adapter yet\nhint: mmcb"),
        (OSError(errno.ENOSPC, "No space left"), 2, "error: the disk is full: there is no room"),
        (full_database(), 2, "error: the disk is full: there is no room left in the folder for te"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            2,
            "error: cannot write to /x: ",
        ),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["made-up"])
    with pytest.raises(SystemExit) as caught:
        run_command(Settings, stop_with(error), prog="made-up", description="Made up.")
    assert caught.value.code == code
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith(said)
    assert "Traceback" not in written.err


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = [sys.executable, "-m", "mmcb", "attacks.gcg", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == EXIT_BROKEN_PIPE


@pytest.mark.parametrize("bug", [ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "gone")])
def test_our_own_bugs_keep_their_traceback(bug: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["made-up"])
    with pytest.raises(type(bug)):
        run_command(Settings, stop_with(bug), prog="made-up", description="")


def test_a_preset_that_fails_is_a_user_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["made-up", "--model", "unknown"])
    with pytest.raises(SystemExit) as caught:
        run_command(Settings, print, prog="made-up", description="", preset=preset)
    assert caught.value.code == 2
    assert "did you mean llava-next?" in capsys.readouterr().err


def test_main_gets_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["made-up", "--steps", "5"])
    seen: list[Settings] = []
    run_command(Settings, seen.append, prog="made-up", description="Made up.")
    assert seen == [Settings(steps=5)]
    assert json.loads(seen[0].model_dump_json())["steps"] == 5


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_listing(
    args: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["mmcb", *args])
    __main__.main()
    written = capsys.readouterr().out
    for name, sentence in __main__.COMMANDS.items():
        assert name in written
        assert sentence in written
        assert sentence.endswith(".")


def test_a_space_does_for_the_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(__main__, "run", lambda name, args: ran.append((name, list(args))))
    for words in (
        ["coco", "download", "--split", "x"],
        ["coco.download"],
        ["merge", "--out", "y"],
        ["evaluation", "sample"],
        ["evaluation", "--limit", "2"],
    ):
        monkeypatch.setattr(sys, "argv", ["mmcb", *words])
        __main__.main()
    assert ran == [
        ("coco.download", ["--split", "x"]),
        ("coco.download", []),
        ("merge", ["--out", "y"]),
        ("evaluation.sample", []),
        ("evaluation", ["--limit", "2"]),
    ]


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mmcb", "--version"])
    __main__.main()
    assert capsys.readouterr().out == f"mmcb {__version__}\n"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("trainig", "training"),
        ("image-hijack", "attacks.image_hijack"),
        ("attacks.image-hijack", "attacks.image_hijack"),
        ("evaluate", "evaluation"),
        ("coco", "coco.download"),
        ("runs", "runs.ls` or `mmcb runs.show` or `mmcb runs.compare"),
    ],
)
def test_unknown_command(
    wrong: str,
    right: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["mmcb", wrong])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    assert caught.value.code == 2
    assert f"did you mean `mmcb {right}`?" in capsys.readouterr().err


def test_hopeless_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["mmcb", "qqqq"])
    with pytest.raises(SystemExit):
        __main__.main()
    assert "`mmcb` lists the commands" in capsys.readouterr().err
