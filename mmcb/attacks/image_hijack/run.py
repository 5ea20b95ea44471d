"""The image hijack command: find the model and the pictures, attack, sum up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmcb.attacks.image_hijack.attacker import HijackAttacker
from mmcb.attacks.image_hijack.config import COMMAND, ImageHijackConfig
from mmcb.attacks.image_hijack.subjects import (
    Skipped,
    Subject,
    pair_with_images,
    prepare_subjects,
)
from mmcb.attacks.image_hijack.summary import log_summary
from mmcb.attacks.image_hijack.targets import (
    Targets,
    check_inputs,
    load_behaviors,
)
from mmcb.errors import MmcbError
from mmcb.log import get_logger
from mmcb.models.chat import num_image_tokens
from mmcb.models.loading import LoadedModel, load_model
from mmcb.runs import RunDir, newest_run, read_manifest, timestamp

RUNS = Path("runs") / COMMAND
# A resumed run may be told these anew: they do not change what an attempt is.
MAY_CHANGE = frozenset({"batch_size", "save_every", "num_behaviors", "target_models", "device"})

_log = get_logger(__name__)


def run_image_hijack(config: ImageHijackConfig) -> Path:
    """Run the command; returns the run's folder.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    targets, behaviors_path = check_inputs(config)
    behaviors = load_behaviors(
        behaviors_path, needs_image=config.image_folder is None, limit=config.num_behaviors
    )
    pairs = pair_with_images(
        behaviors, behaviors_path=behaviors_path, image_folder=config.image_folder
    )
    resolved = config.model_copy(
        update={
            "model": targets.model,
            "adapter": "none" if targets.adapter is None else str(targets.adapter),
            "behaviors": behaviors_path,
        }
    )
    with _start(resolved, targets, behaviors_path) as run:
        subjects, skipped = prepare_subjects(
            pairs, folder=run.path / "images" / "clean", max_side=config.max_side
        )
        loaded = load_model(
            targets.model, adapter=targets.adapter, device=config.device, dtype=config.dtype
        )
        subjects, too_thin = _without_too_thin(loaded, subjects)
        skipped += too_thin
        run.note("skipped", [{"image": str(s.image), "reason": s.reason} for s in skipped])
        HijackAttacker(resolved, loaded, run.path, targets.labels).attack(subjects)
        log_summary(run.path / "attempts.jsonl", num_skipped=len(skipped))
    return run.path


def _start(config: ImageHijackConfig, targets: Targets, behaviors: Path) -> RunDir:
    """The folder asked for, else an unfinished run with the same settings, else a new one."""
    path = config.out
    if path is None:
        wanted = config.model_dump(mode="json", exclude={"out", *MAY_CHANGE})
        path = newest_run(
            RUNS,
            COMMAND,
            status=None,
            where=lambda m: m["status"] != "complete" and wanted.items() <= m["config"].items(),
        )
        if path is not None:
            _log.info("resuming %s (%s)", path, read_manifest(path)["status"])
    if path is None:
        path = RUNS / f"{Path(targets.model).name}-{timestamp()}"
    inputs = {"behaviors": behaviors}
    if targets.adapter is not None:
        inputs["adapter"] = targets.adapter
    run = RunDir.start(
        path, command=COMMAND, config=config, inputs=inputs, may_change=MAY_CHANGE | {"out"}
    )
    _log.info("attacking %s (%s) in %s", targets.model, ", ".join(targets.labels), path)
    return run


def _without_too_thin(
    loaded: LoadedModel, subjects: Sequence[Subject]
) -> tuple[list[Subject], list[Skipped]]:
    """Leave out pictures that the model's tiling cannot take."""
    kept, skipped = [], []
    for subject in subjects:
        try:
            num_image_tokens(loaded, subject.size)
        except MmcbError as error:
            _log.warning("skipped %s: %s", subject.source, error.message)
            skipped.append(Skipped(subject.source, error.message))
        else:
            kept.append(subject)
    if not kept:
        raise MmcbError("none of the pictures suits the model", hint=skipped[0].reason)
    return kept, skipped
