"""Runs: the folder each one keeps (`folder`), and the commands that look at them (`mmcb runs`)."""

from mmcb.runs.folder import (
    PACKAGES,
    RunDir,
    git_state,
    newest_run,
    read_manifest,
    timestamp,
)

__all__ = ["PACKAGES", "RunDir", "git_state", "newest_run", "read_manifest", "timestamp"]
