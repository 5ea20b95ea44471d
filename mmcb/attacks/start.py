"""The folder of a run: the one asked for, an unfinished one to go on with, or a new one."""

from __future__ import annotations

from pathlib import Path

from mmcb.attacks.targets import Targets
from mmcb.config import Config
from mmcb.log import get_logger
from mmcb.runs import RunDir, newest_run, read_manifest, timestamp

_log = get_logger(__name__)


def start_run(
    config: Config,
    targets: Targets,
    behaviors: Path,
    *,
    command: str,
    may_change: frozenset[str],
    out: Path | None,
) -> RunDir:
    """The folder asked for, else an unfinished run with the same settings, else a new one.

    Args:
        config: the resolved settings.
        targets: what is attacked.
        behaviors: the file of behaviors.
        command: the command's name.
        may_change: settings that a resumed run may be told anew.
        out: the folder asked for.
    """
    path = out
    if path is None:
        wanted = config.model_dump(mode="json", exclude={"out", *may_change})
        path = newest_run(
            Path("runs") / command,
            command,
            status=None,
            where=lambda m: m["status"] != "complete" and wanted.items() <= m["config"].items(),
        )
        if path is not None:
            _log.info("resuming %s (%s)", path, read_manifest(path)["status"])
    if path is None:
        path = Path("runs") / command / f"{Path(targets.model).name}-{timestamp()}"
    inputs = {"behaviors": behaviors}
    if targets.adapter is not None:
        inputs["adapter"] = targets.adapter
    run = RunDir.start(
        path, command=command, config=config, inputs=inputs, may_change=may_change | {"out"}
    )
    _log.info("attacking %s (%s) in %s", targets.model, ", ".join(targets.labels), path)
    return run
