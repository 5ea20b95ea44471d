"""The image hijack command: find the model and the pictures, attack, sum up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from mmcb.attacks.image_hijack.attacker import HijackAttacker
from mmcb.attacks.image_hijack.bench import Bench, make_bench
from mmcb.attacks.image_hijack.completions import complete_targets
from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.roles import assign_roles
from mmcb.attacks.image_hijack.subjects import (
    Skipped,
    Subject,
    as_the_model_sees,
    pair_with_images,
    prepare_subjects,
    scale_down,
)
from mmcb.attacks.image_hijack.targets import check_inputs
from mmcb.attacks.image_hijack.universal import UniversalAttacker
from mmcb.attacks.start import start_run
from mmcb.attacks.summary import log_summary
from mmcb.attacks.targets import Targets, load_behaviors, rerouted_layers
from mmcb.errors import MmcbError
from mmcb.log import get_logger
from mmcb.models.chat import num_image_tokens
from mmcb.models.loading import LoadedModel, load_model
from mmcb.models.preprocess import pixel_preprocessor
from mmcb.records import Behavior
from mmcb.run_folder import RunDir

_log = get_logger(__name__)


def run_image_hijack(config: ImageHijackConfig) -> Path:
    """Run the command; returns the run's folder.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    settled, targets = check_inputs(config)
    behaviors = load_behaviors(
        targets.behaviors,
        needs_image=config.image_folder is None,
        needs_target=config.target != "string",
        limit=config.num_behaviors,
    )
    if config.target == "string":
        update = {"target": config.target_string}
        behaviors = [behavior.model_copy(update=update) for behavior in behaviors]
    pairs = pair_with_images(
        behaviors, behaviors_path=targets.behaviors, image_folder=config.image_folder
    )
    roles = assign_roles(settled, behaviors) if config.universal else None
    with start_run(settled, targets) as run:
        bench, subjects = prepare(settled, targets, pairs, run, count=1 if roles else None)
        if roles is not None:
            UniversalAttacker(bench, targets.labels, roles).attack(subjects[0])
        else:
            HijackAttacker(bench, targets.labels).attack(with_targets(bench, subjects))
        log_summary(bench.attempts)
    return run.path


def prepare(
    config: ImageHijackConfig,
    targets: Targets,
    pairs: Iterator[tuple[Behavior, Path]],
    run: RunDir,
    *,
    count: int | None,
) -> tuple[Bench, list[Subject]]:
    """The bench, and the first `count` clean pictures that suit the model (None: all)."""

    def load() -> LoadedModel:
        return load_model(
            targets.model, adapter=targets.adapter, device=config.device, dtype=config.dtype
        )

    layers = rerouted_layers(targets.adapter, targets.model)
    if config.objective == "adaptive" and targets.adapter is not None and not layers:
        raise MmcbError(
            f"{targets.adapter}: nothing there says which layers were rerouted",
            hint="put the run's recipe.json beside it, or leave out --objective adaptive",
        )
    # Pictures first, so that bad ones are told at once, unless their size is the model's affair.
    loaded = load() if config.frame == "model_input" else None
    subjects, skipped = prepare_subjects(
        pairs,
        count=count,
        folder=run.path / "images" / "clean",
        fit=_fitter(config, loaded),
    )
    loaded = loaded or load()
    subjects, too_thin = _without_too_thin(loaded, subjects)
    skipped += too_thin
    run.note("skipped", [{"image": str(s.image), "reason": s.reason} for s in skipped])
    if skipped:
        _log.warning("%d images skipped; manifest.json names them", len(skipped))
    return make_bench(config, loaded, run.path, layers), subjects


def _fitter(
    config: ImageHijackConfig, loaded: LoadedModel | None
) -> Callable[[Image.Image], Image.Image]:
    """What brings a picture to the frame in which epsilon is measured."""
    shrink = partial(scale_down, max_side=config.max_side)
    if loaded is None:
        return shrink
    preprocess = pixel_preprocessor(loaded)
    return lambda image: as_the_model_sees(shrink(image), preprocess)


def with_targets(bench: Bench, subjects: Sequence[Subject]) -> Sequence[Subject]:
    """Long targets, where they are asked for."""
    if bench.config.target != "completion":
        return subjects
    return complete_targets(
        subjects,
        loaded=bench.loaded,
        path=bench.path / "targets.jsonl",
        max_new_tokens=bench.config.target_tokens,
    )


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
