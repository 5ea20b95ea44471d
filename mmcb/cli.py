"""The one command-line convention: preset(--model), --preset, then --config FILE, then flags.

Every command is a frozen `Config` and a function that takes it. tyro turns the fields into flags
with dashes and the docstrings under them into help. A run saves what was resolved, so that
`--config runs/.../config.json` runs it again.
"""

import dataclasses
import errno
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from pydantic import ValidationError

from mmcb.config import Config
from mmcb.errors import MmcbError
from mmcb.log import setup_logging

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)
"""What a place where the user wants something written may answer: no leave, or it is no folder."""

ConfigT = TypeVar("ConfigT", bound=Config)


def run_command(
    config_type: type[ConfigT],
    main: Callable[[ConfigT], None],
    *,
    prog: str,
    description: str,
    preset: Callable[[str], ConfigT] | None = None,
    default_model: str | None = None,
    protocols: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Read the command line into a config and run `main` on it.

    A `MmcbError` ends the program with one sentence and code 2, as does a place that cannot be
    written; Ctrl-C ends it with 130. Anything else is a bug and keeps its traceback (code 1).

    Args:
        config_type: The command's settings.
        main: The command; it imports its heavy modules inside, so that `--help` answers at once.
        prog: The name shown in help, such as `mmcb training`.
        description: A sentence or two shown at the top of help.
        preset: Maps the value of `--model` to the settings that suit that model.
        default_model: The model whose preset holds if `--model` is not given.
        protocols: Maps the value of `--preset`, for commands that have it, to settings.
    """
    try:
        config = parse_config(
            config_type,
            sys.argv[1:],
            prog=prog,
            description=description,
            preset=preset,
            default_model=default_model,
            protocols=protocols,
        )
        setup_logging()
        main(config)
    except MmcbError as error:
        print_error(error)
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:
        # The reader has seen enough (`--help | head`). Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except (OSError, sqlite3.OperationalError) as error:
        trouble = _trouble_of_place(error)
        if trouble is None:
            raise
        print_error(trouble)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        _print("interrupted; the same command goes on from here")
        sys.exit(EXIT_INTERRUPTED)


def parse_config(
    config_type: type[ConfigT],
    args: Sequence[str],
    *,
    prog: str,
    description: str = "",
    preset: Callable[[str], ConfigT] | None = None,
    default_model: str | None = None,
    protocols: Mapping[str, Mapping[str, Any]] | None = None,
) -> ConfigT:
    """Resolve settings from presets, a file and flags, in that order; later ones win.

    Raises:
        MmcbError: If the file cannot be read or the settings do not hold together.
        SystemExit: After `--help` (code 0), or a flag that tyro does not understand (code 2).
    """
    early, _ = tyro.cli(
        _EarlyFlags, args=_without_help(args), add_help=False, return_unknown_args=True
    )
    settings = {} if early.config is None else _read_settings(early.config)
    model = early.model or settings.get("model") or default_model
    default: ConfigT | None = None
    if preset is not None and model is not None:
        default = preset(str(model))
    name = early.preset or settings.get("preset")
    if protocols is not None and isinstance(name, str) and name in protocols:
        settings = _merge({**protocols[name], "preset": name}, settings)
    if settings:
        base = {} if default is None else default.model_dump()
        where = str(early.config or f"--preset {name}")
        default = validate_settings(config_type, _merge(base, settings), where=where)
    command = _command_type(config_type, default)
    try:
        parsed = tyro.cli(command, args=args, prog=prog, description=description)
    except ValidationError as error:
        raise _settings_error(error, where="the command line") from None
    config: ConfigT = parsed.settings
    return config


def print_error(error: MmcbError) -> None:
    """Print what is wrong and what to do about it, a line each, on stderr."""
    _print(f"error: {error.message}")
    if error.hint:
        _print(f"hint: {error.hint}")


def _trouble_of_place(error: OSError | sqlite3.OperationalError) -> MmcbError | None:
    """The sentence for a place without room, or closed to us; None for any other trouble."""
    if isinstance(error, sqlite3.OperationalError):
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            return None
        where = "the folder for temporary files (SQLITE_TMPDIR names another)"
    elif error.errno in _CLOSED and error.filename is not None:
        return MmcbError(
            f"cannot write to {error.filename}: {error.strerror}", hint="give another place (--out)"
        )
    elif error.errno in _FULL:
        where = str(error.filename or "the folder that this command writes to")
    else:
        return None
    return MmcbError(
        f"the disk is full: there is no room left in {where}",
        hint="make room; what was written stays, and the same command goes on from here",
    )


@dataclasses.dataclass(frozen=True)
class _EarlyFlags:
    """The flags that decide what the other flags' defaults are."""

    model: str | None = None
    preset: str | None = None
    config: Path | None = None


def _command_type(config_type: type[ConfigT], default: ConfigT | None) -> Any:
    """Build the type that tyro parses: the settings' own flags, and `--config` beside them."""
    settings_field: Any = (
        dataclasses.field() if default is None else dataclasses.field(default=default)
    )
    config_help = "A JSON file of settings, such as the config.json of a run; flags win over it."
    return dataclasses.make_dataclass(
        "Command",
        [
            ("settings", Annotated[config_type, tyro.conf.arg(name="")], settings_field),
            (
                "config",
                Annotated[Path | None, tyro.conf.arg(metavar="FILE", help=config_help)],
                dataclasses.field(default=None),
            ),
        ],
        frozen=True,
        kw_only=True,
    )


def _without_help(args: Sequence[str]) -> list[str]:
    return [arg for arg in args if arg not in ("-h", "--help")]


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MmcbError(f"--config {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise MmcbError(f"--config {path}: not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise MmcbError(f"--config {path}: holds no settings (a JSON object is expected)")
    return settings


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def validate_settings(
    config_type: type[ConfigT], settings: Mapping[str, Any], *, where: str
) -> ConfigT:
    """Settings of a command from a file.

    Args:
        config_type: The command's settings.
        settings: By name.
        where: Names the file in the error.

    Raises:
        MmcbError: If a setting is unknown or wrong, or they do not hold together.
    """
    try:
        return config_type.model_validate(settings)
    except ValidationError as error:
        raise _settings_error(error, where=where) from None


def _settings_error(error: ValidationError, *, where: str) -> MmcbError:
    problems = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        problems.append(f"{name}: {message}" if name else message)
    return MmcbError(f"{where}: {'; '.join(problems)}", hint="--help lists every setting")


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")
