"""From captions to both sets, stage after stage; every stage goes on where it was cut short."""

import gc
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain

from mmcb.curation.gallery import write_gallery
from mmcb.curation.language import check_language
from mmcb.curation.overlap import Decontamination, PromptIndex
from mmcb.curation.parquet import write_parquet
from mmcb.generation.factory import make_generator
from mmcb.generation.protocol import TextGenerator
from mmcb.log import get_logger
from mmcb.record_index import RecordIndex
from mmcb.records import Caption
from mmcb.run_folder import RunDir
from mmcb.store import file_hash
from mmcb.synthesis.categories import load_taxonomy, taxonomy_file
from mmcb.synthesis.circuit_breaker import check_held_out, circuit_breaker_stage
from mmcb.synthesis.config import RESUMABLE, SynthesisConfig
from mmcb.synthesis.few_shot import Shot, load_shots
from mmcb.synthesis.files import SetFiles
from mmcb.synthesis.filters import PairFilters, pair_text
from mmcb.synthesis.report import build_report, tell, write_report
from mmcb.synthesis.retain import (
    RefusalStage,
    add_captions,
    add_instructions,
    read_instructions,
    retain_stages,
)
from mmcb.synthesis.templates import load_prompts
from mmcb.synthesis.writer import HarmJudge, Workshop

GeneratorMaker = Callable[[str], TextGenerator]
"""Loads the model of this name."""

JudgeMaker = Callable[[str], HarmJudge]
"""Makes the judge of this name. Judges belong to evaluation, which stages may not import: the
command hands them in."""

_log = get_logger(__name__)


def start_run(config: SynthesisConfig) -> RunDir:
    """Open the output folder, after a look at everything that needs no model.

    Raises:
        MmcbError: No such taxonomy or templates, a file of the user's that is not what it should
            be, or the folder holds a set made another way.
    """
    taxonomy = load_taxonomy(config.taxonomy_name)
    prompts = load_prompts(config.prompts or taxonomy.template_set)
    load_shots(config.few_shot, taxonomy)
    if config.language is not None:
        check_language(config.language)
    # Read once for what is wrong with them: they are used after hours of captioning.
    Decontamination(config)
    for _ in read_instructions(config):
        pass
    inputs = {"taxonomy": taxonomy_file(config.taxonomy_name)}
    inputs |= {f"prompt_{kind}": prompt.path for kind, prompt in prompts.items()}
    if config.few_shot is not None:
        inputs["few_shot"] = config.few_shot
    return RunDir.start(
        config.folder,
        command="synthesis",
        config=config,
        inputs=inputs | config.evaluation_files,
        may_change=RESUMABLE,
    )


def synthesize(
    config: SynthesisConfig,
    captions: Iterable[Caption],
    *,
    run: RunDir,
    make: GeneratorMaker | None = None,
    make_judge: JudgeMaker | None = None,
    sees: bool = True,
    licence_names: Mapping[int, str] | None = None,
) -> dict[str, object]:
    """Write the circuit-breaker set and the retain set of these captions.

    Args:
        config: What to write, and how.
        captions: Captions whose image paths are relative to the run's folder; they are gone through
            more than once. A text-only query finds its picture in the folder's captions.jsonl.
        run: The opened output folder.
        make: Loads a model; called only when a stage has work for it, one model at a time.
        make_judge: Makes the judge that `config.harm_judge` names.
        sees: Whether `config.model` takes images.
        licence_names: What the images' annotation files call their licences, by number.

    Returns:
        The report, as in report.json.
    """
    make = make or (lambda name: make_generator(config.engine, name))
    files = SetFiles(config, run.path)
    files.prepare()
    taxonomy = load_taxonomy(config.taxonomy_name)
    decontamination = Decontamination(config)
    shots = load_shots(config.few_shot, taxonomy)
    writer = cache(lambda: _load(make, config.writer))
    workshop = Workshop(
        config=config,
        writer=writer,
        prompts=load_prompts(config.prompts or taxonomy.template_set),
        shots=shots,
        filters=PairFilters(config, decontamination, _shown(config, shots)),
        judge=_judge(config, make_judge),
    )
    for stage in (
        circuit_breaker_stage(captions, files, taxonomy),
        *retain_stages(captions, files),
    ):
        stage.run(workshop)
    writer.cache_clear()
    add_captions(captions, files, decontamination)
    add_instructions(files, decontamination)
    if config.instructions_file is not None:
        run.note("instructions", file_hash(config.instructions_file))
    refusals = RefusalStage(files, sees=sees)
    if next(refusals.pending(), None) is not None:
        refusals.run(_load(make, config.model))
    files.settle()
    check_held_out(chain(files.examples, files.retained), taxonomy)
    report = build_report(files, captions=captions, taxonomy=taxonomy)
    write_report(
        files, report, captions=captions, taxonomy=taxonomy, licence_names=licence_names or {}
    )
    _show(files)
    run.note("report", report)
    tell(report, files=files)
    return report


def _show(files: SetFiles) -> None:
    """The sets in the forms for other eyes and other tools."""
    config, sets = files.config, (files.examples, files.retained)
    if config.parquet:
        for records in sets:
            write_parquet(records.path, records)
    if config.gallery:
        index = write_gallery(
            [records.path for records in sets],
            title=f"{config.folder.name}: training sets",
            captions=RecordIndex(files.captions, Caption),
            coco_root=config.coco_root if config.coco_root.is_dir() else None,
        )
        _log.info("to review by eye: %s", index)


def _shown(config: SynthesisConfig, shots: Sequence[Shot]) -> PromptIndex | None:
    """What no pair may be copied from."""
    if config.few_shot is None or config.max_shot_bleu is None:
        return None
    texts = ((config.few_shot.name, pair_text(shot.pair)) for shot in shots)
    return PromptIndex(texts, threshold=config.max_shot_bleu)


def _judge(config: SynthesisConfig, make_judge: JudgeMaker | None) -> HarmJudge | None:
    name = config.harm_judge
    if name is None:
        return None
    if make_judge is None:
        raise ValueError(f"nobody handed in the judge {name!r}")
    return make_judge(name)


def _load(make: GeneratorMaker, name: str) -> TextGenerator:
    """Load a model into the memory that the one before has left."""
    gc.collect()
    torch = sys.modules.get("torch")  # not imported for this: then nothing is held on a GPU either
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    _log.info("loading %s", name)
    return make(name)
