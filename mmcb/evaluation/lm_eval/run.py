"""lm-eval's tasks on both models: a file a task and model, then results.json.

A task that is done is not run again, so that the same command goes on where it was cut, and a new
adapter keeps the base's numbers.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.evaluation.contamination.check import EvaluationSet, check_contamination
from mmcb.evaluation.facts import circumstances
from mmcb.evaluation.lm_eval.config import LmEvalConfig
from mmcb.evaluation.lm_eval.outcome import outcome_of
from mmcb.evaluation.lm_eval.summary import summarize
from mmcb.evaluation.lm_eval.tasks import LoadedTask, load_tasks, require_lm_eval
from mmcb.evaluation.weights import Roles, find_roles
from mmcb.generation.config import EngineConfig
from mmcb.log import get_logger
from mmcb.models.families import Family
from mmcb.models.loading import LoadedModel, load_model
from mmcb.models.locate import locate
from mmcb.run_folder import RunDir
from mmcb.store import file_hash, record_id, write_atomic

COMMAND = "evaluation.lm_eval"

_log = get_logger(__name__)


def run_lm_eval(config: LmEvalConfig) -> dict[str, Any]:
    """Run what is missing of the tasks; the results, as they stand in results.json.

    Raises:
        MmcbError: lm-eval, the model, the adapter, a task or its data is not there.
    """
    require_lm_eval()
    roles = find_roles(config.model, config.adapter, EngineConfig())
    manager, tasks = load_tasks(config, sees=_sees(locate(config.model).family))
    out = output_folder(config)
    with RunDir.start(
        out, command=COMMAND, config=config, may_change=frozenset(LmEvalConfig.model_fields)
    ):
        runner = _Runner(config, roles.adapter, manager)
        outcomes = {
            role: {
                task.name: _outcome(task, role, fingerprint, config, out, runner) for task in tasks
            }
            for role, fingerprint in roles.weights.items()
        }
        results = summarize(tasks, outcomes)
        asked = [] if roles.adapter is None else tasks
        sets = {t.name: EvaluationSet(list(t.items(config.limit))) for t in asked}
        results["contamination"] = check_contamination(roles.adapter, sets)
        results["settings"] = _settings(config, roles)
        write_atomic(out / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def output_folder(config: LmEvalConfig) -> Path:
    """Where the results go: --out, or runs/lm_eval/<model>."""
    return config.out or Path("runs/lm_eval") / Path(config.model).name


def _sees(family: Family | None) -> bool:
    # A model in no row is a language model: unknown ones that see are refused when loaded.
    return family is not None and family.kind == "vlm"


class _Runner:
    """Loads the model when a task is first to be run, and runs tasks on it."""

    def __init__(self, config: LmEvalConfig, adapter: Path | None, manager: Any) -> None:
        self._config = config
        self._adapter = adapter
        self._manager = manager
        self._loaded: LoadedModel | None = None
        self._harness: Any = None

    def run(self, task: LoadedTask, role: str) -> dict[str, Any]:
        """lm-eval's results of one task."""
        import lm_eval

        from mmcb.evaluation.lm_eval.models import harness_model

        config = self._config
        if self._loaded is None:
            _log.info("loading %s", config.model)
            self._loaded = load_model(
                config.model, adapter=self._adapter, device=config.device, dtype=config.dtype
            )
            self._harness = harness_model(self._loaded, batch_size=config.batch_size)
        _log.info("%s model: %s", role, task.name)
        with self._weights_of(role):
            found: dict[str, Any] = lm_eval.simple_evaluate(
                model=self._harness,
                tasks=task.top,
                num_fewshot=task.shots,
                task_manager=self._manager,
                limit=config.limit,
                apply_chat_template=task.sees or config.apply_chat_template,
                random_seed=config.seed,
                numpy_random_seed=config.seed,
                torch_random_seed=config.seed,
                fewshot_random_seed=config.seed,
            )
        return found

    @contextlib.contextmanager
    def _weights_of(self, role: str) -> Iterator[None]:
        assert self._loaded is not None
        with self._loaded.adapter_disabled() if role == "base" else contextlib.nullcontext():
            yield


def _outcome(
    task: LoadedTask,
    role: str,
    fingerprint: str,
    config: LmEvalConfig,
    out: Path,
    runner: _Runner,
) -> dict[str, Any]:
    """What a task gave: read from its file, or run and written."""
    key = _key(task, fingerprint, config)
    path = out / role / f"{task.name}.json"
    with contextlib.suppress(OSError, ValueError):
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept.get("key") == key:
            return kept
    try:
        found = runner.run(task, role)
    except MmcbError:
        raise
    except (ValueError, KeyError, NotImplementedError, AssertionError) as error:
        raise MmcbError(
            f"lm-eval task {task.name} failed on the {role} model: {error}",
            hint="what the other tasks gave is kept; leave this one out of --tasks to go on",
        ) from error
    outcome = {"key": key, **outcome_of(found)}
    write_atomic(path, json.dumps(outcome) + "\n")
    return outcome


def _key(task: LoadedTask, fingerprint: str, config: LmEvalConfig) -> str:
    """Everything that decides the numbers of a task."""
    return record_id(
        "lm_eval",
        metadata.version("lm_eval"),
        fingerprint,
        task.name,
        str(task.shots),
        task.source,
        *_contents(task, config),
        str(config.limit),
        str(config.apply_chat_template),
        config.dtype,
        config.seed,
    )


def _contents(task: LoadedTask, config: LmEvalConfig) -> list[str]:
    """Hashes of the user's own files that a task is made of: a task that was edited is another."""
    folders = [(config.include_path, "*")]
    if task.source == str(config.mmlu_csv):
        folders.append((config.mmlu_csv, "*/*.csv"))
    return [
        f"{path.relative_to(folder)} {file_hash(path)}"
        for folder, pattern in folders
        if folder is not None
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    ]


def _settings(config: LmEvalConfig, roles: Roles) -> dict[str, Any]:
    made = circumstances(output_folder(config))
    return {
        **roles.settings(),
        "limit": config.limit,
        "apply_chat_template": config.apply_chat_template,
        "dtype": config.dtype,
        "seed": config.seed,
        **made,
        "versions": {**made["versions"], "lm_eval": metadata.version("lm_eval")},
    }
