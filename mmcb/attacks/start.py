"""The folder of a run: the one asked for, an unfinished one to go on with, or a new one."""

from __future__ import annotations

from pathlib import Path

from mmcb.attacks.config import AttackConfig
from mmcb.attacks.targets import Targets
from mmcb.log import get_logger
from mmcb.run_folder import RunDir, newest_run, read_manifest, timestamp

_log = get_logger(__name__)


def start_run(config: AttackConfig, targets: Targets) -> RunDir:
    """The folder asked for, else an unfinished run with the same settings, else a new one.

    Args:
        config: the settings, from `locate_targets`.
        targets: what is attacked.
    """
    path = config.out or _unfinished(config)
    if path is None:
        name = f"{Path(targets.model).name}-{timestamp()}"
        path = Path("runs") / config.command / name
    inputs = {"behaviors": targets.behaviors}
    if targets.adapter is not None:
        inputs["adapter"] = targets.adapter
    run = RunDir.start(
        path,
        command=config.command,
        config=config,
        inputs=inputs,
        may_change=config.may_change | {"out"},
    )
    _log.info("attacking %s (%s) in %s", targets.model, ", ".join(targets.labels), path)
    return run


def _unfinished(config: AttackConfig) -> Path | None:
    wanted = config.model_dump(mode="json", exclude={"out", *config.may_change})
    path = newest_run(
        Path("runs") / config.command,
        config.command,
        status=None,
        where=lambda m: m["status"] != "complete" and wanted.items() <= m["config"].items(),
    )
    if path is not None:
        _log.info("resuming %s (%s)", path, read_manifest(path)["status"])
    return path
