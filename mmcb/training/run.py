"""A training run from its configuration to its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcb.errors import MmcbError
from mmcb.log import get_logger
from mmcb.models.export import merge_adapter, save_adapter
from mmcb.models.generic import check_decoder, is_generic
from mmcb.models.loading import LoadedModel, load_model
from mmcb.models.locate import check_model, locate
from mmcb.run_folder import RunDir, newest_run, read_manifest, timestamp
from mmcb.store import file_hash, write_atomic
from mmcb.training.checkpoints import cut_metrics, step_of
from mmcb.training.config import TrainingConfig
from mmcb.training.examples import ExampleSet, check_examples, encode_examples
from mmcb.training.mixing import Drawn, Part, mix, read_sets
from mmcb.training.outputs import OutputsAtEnd
from mmcb.training.processes import accelerator_of, from_main, wants_sharding
from mmcb.training.recipes import Recipe, read_recipe, recipe_of
from mmcb.training.reroute import add_adapter
from mmcb.training.sets import Sets, describe, find_sets, input_files
from mmcb.training.trackers import check_trackers, tracking
from mmcb.training.trainer import Intervals, Trainer, read_metrics

if TYPE_CHECKING:
    from accelerate import Accelerator

RUNS = Path("runs/training")
MAY_CHANGE = frozenset(
    {"out", "data", "merge", "evaluate", "device", "checkpoint_every", "recipe", "memory"}
    | {"push_to_hub", "push_merged", "push_public", "push_public_merged", "report_to"}
)
"""Settings that a resumed run may change: they do not decide where training ends up. (The data's
content may not change; the run's input hashes see to that.)"""

SPLIT = ("batch_size", "retain_batch_size", "accumulation")
"""Settings that a resumed run may change together, if a step has as many examples as before."""

_log = get_logger(__name__)


def train(config: TrainingConfig, *, runs: Path = RUNS) -> Path:
    """Train an adapter, or go on with a run of the same configuration that was cut short.

    Args:
        config: what to train, on what, how.
        runs: where a run without `config.out` gets its folder.

    Returns:
        The run's folder: adapter/, recipe.json, metrics.jsonl, report.html, config.json,
        manifest.json, and merged/ if asked for.

    Raises:
        MmcbError: no model, no data, layers that do not fit, or a run that has gone wrong.
    """
    check_model(config.model)
    check_trackers(config.report_to)
    sets = find_sets(config)
    inputs = input_files(sets)
    accelerator = accelerator_of(config)
    with ExitStack() as stack:
        # One process opens the folder, and the others hear what it found there: what they would
        # find depends on how far it has come.
        run = from_main(accelerator, lambda: _opened_run(config, inputs, runs=runs, stack=stack))
        out = run.path
        finished = run.previous_status == "complete" and (out / "adapter").is_dir()
        if from_main(accelerator, lambda: finished):
            _log.info("%s is already trained; nothing to do", out)
        else:
            _log.info("training data: %s, run: %s", "; ".join(describe(sets).values()), out)
            _train_in(run, config, sets=sets, accelerator=accelerator)
        if config.merge and accelerator.is_main_process and not (out / "merged").is_dir():
            _log.info("writing the merged checkpoint to %s", out / "merged")
            # Beside its place, and then into it: half of a merged model must not pass for one.
            merge_adapter(config.model, out / "adapter", out / ".merged").rename(out / "merged")
    return out


def wants_evaluation(config: TrainingConfig) -> bool:
    """Whether the run ends with a short evaluation: as asked, or as its family's recipe says.

    Raises:
        MmcbError: it is asked for, and its behaviors, the miniature world's, do not suit the model.
    """
    family = locate(config.model).family
    suits = family is not None and family.defaults.evaluate_after
    if config.evaluate and not suits:
        raise MmcbError(
            f"--evaluate True asks for the miniature world's behaviors, which {config.model} has"
            " never heard of",
            hint="leave it out, and then give your own: python -m mmcb.evaluation --model"
            f" {config.model} --adapter RUN/adapter --behaviors FILE",
        )
    return suits if config.evaluate is None else config.evaluate


def _train_in(run: RunDir, config: TrainingConfig, *, sets: Sets, accelerator: Accelerator) -> None:
    """Load, encode, train, save: the part of a run that takes long."""
    drawn = read_sets(sets, config)
    loaded, recipe = _load(config, device=str(accelerator.device))
    from_main(accelerator, lambda: _write_recipe(run, recipe))
    train_set, heldout_set = _encode(
        run, config, loaded=loaded, recipe=recipe, drawn=drawn, sets=sets, accelerator=accelerator
    )
    loaded = add_adapter(loaded, recipe, seed=config.seed)
    trainer = Trainer(
        loaded,
        recipe,
        train=train_set,
        heldout=heldout_set,
        seed=config.seed,
        accelerator=accelerator,
        memory=config.memory_bytes,
    )
    checkpoint = run.file("checkpoint.safetensors")
    if accelerator.is_main_process:
        cut_metrics(run.file("metrics.jsonl"), step=step_of(checkpoint))
    history = from_main(accelerator, lambda: _history(run.path, checkpoint, recipe))
    every = Intervals(checkpoint=config.checkpoint_every, validate=config.validate_every)
    done = len(history)
    with tracking(accelerator, config.report_to, run=run.path) as track:
        for row in trainer.run(checkpoint, every=every, history=history):
            run.log_metrics(row)
            track(row)
            done = row["step"]
    run.note("steps", {"done": done, "of": recipe.steps, "stopped_early": done < recipe.steps})
    weights = trainer.adapter()
    if accelerator.is_main_process:
        save_adapter(loaded, run.file("adapter"), weights=weights)


def _encode(
    run: RunDir,
    config: TrainingConfig,
    *,
    loaded: LoadedModel,
    recipe: Recipe,
    drawn: Sequence[Drawn],
    sets: Sets,
    accelerator: Accelerator,
) -> tuple[ExampleSet, ExampleSet]:
    """What to train on and what to validate on; the manifest tells what became of the records."""
    pairs, parts = mix(drawn, no_request_fraction=recipe.no_request_fraction, seed=config.seed)
    from_main(accelerator, lambda: _note_sources(run, parts))
    run.note("model_revision", loaded.revision)
    settings: dict[str, Any] = {
        "masks": {"circuit_breaker": recipe.mask, "retain": recipe.retain_mask},
        "max_length": recipe.max_length,
    }
    train_set = encode_examples(pairs, loaded, split="train", **settings)
    check_examples(train_set, origin=describe(sets), model=config.model)
    heldout_set = encode_examples(
        pairs, loaded, split="heldout", limit=config.validation_examples, **settings
    )
    run.note("examples", {"train": len(train_set.examples), "heldout": len(heldout_set.examples)})
    run.note("left_out", train_set.left_out)
    run.note("truncated", {"train": train_set.truncated, "heldout": heldout_set.truncated})
    return train_set, heldout_set


def _history(run: Path, checkpoint: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """Rows of the steps that the checkpoint has done."""
    done = step_of(checkpoint)
    rows = read_metrics(run) if done and (run / "metrics.jsonl").is_file() else []
    if len(rows) != done and (recipe.start_steps or recipe.stop_early):
        raise MmcbError(
            f"{checkpoint} has done {done} steps, and metrics.jsonl has rows of {len(rows)}",
            hint="--start-steps and --stop-early need them all: delete the checkpoint",
        )
    return rows


def _load(config: TrainingConfig, *, device: str) -> tuple[LoadedModel, Recipe]:
    """The model with as many blocks as its recipe needs, checked if no row was made for it."""
    recipe = recipe_of(config)
    loaded = load_model(
        config.model,
        num_blocks=recipe.num_blocks,
        device=device,
        dtype=config.dtype,
        move=not wants_sharding(),  # what will be sharded need not fit on one device
    )
    if is_generic(loaded.family):
        check_decoder(loaded)
        _log.info(
            "model type %s at this depth is in no row of the table: a recipe scaled to it,"
            " targets %s, LoRA on %s of blocks %d to %d",
            loaded.family.config_model_type, recipe.target_layers,
            "/".join(loaded.family.lora_modules), *recipe.lora_layers,
        )  # fmt: skip
    return loaded, recipe


def _write_recipe(run: RunDir, recipe: Recipe) -> None:
    """Write recipe.json; a run that goes on must have been begun by the same recipe."""
    path = run.file("recipe.json")
    if path.is_file() and read_recipe(path).trajectory() != recipe.trajectory():
        raise MmcbError(
            f"{path} was written by another recipe (mmcb's defaults have changed since)",
            hint="give --out another folder, or delete this one",
        )
    write_atomic(path, recipe.model_dump_json(indent=2) + "\n")


def _note_sources(run: RunDir, parts: Sequence[Part]) -> None:
    """Put what each source gave into the manifest; a run that goes on must be given the same."""
    before = read_manifest(run.path).get("sources")
    if before is not None:
        # A set of the hub may have changed; where a file lies (--data) may.
        old = [part["hash"] for part in before]
        changed = [
            part.source for part, hash_ in zip(parts, old, strict=True) if part.hash != hash_
        ]
        if changed:
            raise MmcbError(
                f"{run.path}: {', '.join(changed)} no longer gives what this run started with",
                hint="give --out another folder, or delete this one",
            )
    run.note("sources", [asdict(part) for part in parts])


def _opened_run(
    config: TrainingConfig, inputs: Mapping[str, Path], *, runs: Path, stack: ExitStack
) -> RunDir:
    """The run's folder, begun or gone on with; the stack ends it."""
    out = config.out or _unfinished(config, inputs, runs) or _fresh(config, runs)
    may_change = _may_change(config, out)
    run = RunDir.start(out, command="training", config=config, inputs=inputs, may_change=may_change)
    stack.enter_context(OutputsAtEnd(out))
    return stack.enter_context(run)


def _unfinished(config: TrainingConfig, inputs: Mapping[str, Path], runs: Path) -> Path | None:
    """The newest run of this configuration and data that did not come to its end."""
    wanted = _essence(config.model_dump(mode="json"))
    hashes = {name: file_hash(path) for name, path in inputs.items()}

    def same(manifest: dict[str, Any]) -> bool:
        found = {name: entry["sha256"] for name, entry in manifest["inputs"].items()}
        return (
            manifest["status"] != "complete"
            and found == hashes
            and _essence(manifest["config"]) == wanted
        )

    found = newest_run(runs, "training", status=None, where=same)
    if found is not None:
        _log.info("going on with %s", found)
    return found


def _essence(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides where training ends up: settings, but for the split of a step."""
    kept = {k: v for k, v in settings.items() if k not in MAY_CHANGE and k not in SPLIT}
    sizes, accumulation = [settings.get(name) for name in SPLIT[:2]], settings["accumulation"]
    if settings.get("paper_compat") or None in sizes:
        return {**kept, "split": (*sizes, accumulation)}
    return {**kept, "split": tuple(size * accumulation for size in sizes)}


def _may_change(config: TrainingConfig, out: Path) -> frozenset[str]:
    """Settings that may differ from those of the run in `out`, if there is one."""
    if not (out / "manifest.json").is_file():
        return MAY_CHANGE
    old = {**config.model_dump(mode="json"), **read_manifest(out).get("config", {})}
    same = _essence(old)["split"] == _essence(config.model_dump(mode="json"))["split"]
    return MAY_CHANGE.union(SPLIT) if same else MAY_CHANGE


def _fresh(config: TrainingConfig, runs: Path) -> Path:
    name = re.sub(r"[^\w.-]+", "-", config.model.strip("/")).strip("-")
    return runs / f"{name}-{timestamp()}"
