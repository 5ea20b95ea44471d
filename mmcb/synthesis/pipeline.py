"""From captions to both sets, stage after stage; every stage goes on where it was cut short."""

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from mmcb.curation.gallery import write_gallery
from mmcb.curation.language import check_language
from mmcb.curation.overlap import Decontamination
from mmcb.curation.parquet import write_parquet
from mmcb.generation.factory import make_generator
from mmcb.generation.protocol import TextGenerator
from mmcb.log import get_logger
from mmcb.records import Caption, Example
from mmcb.runs import RunDir
from mmcb.store import file_hash, read_records
from mmcb.synthesis.categories import load_taxonomy, taxonomy_file
from mmcb.synthesis.circuit_breaker import check_held_out, circuit_breaker_stage
from mmcb.synthesis.config import RESUMABLE, SynthesisConfig
from mmcb.synthesis.few_shot import load_shots
from mmcb.synthesis.files import SetFiles
from mmcb.synthesis.filters import PairFilters
from mmcb.synthesis.report import build_report, tell, write_report
from mmcb.synthesis.retain import RefusalStage, add_captions, add_instructions, retain_stages
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
        MmcbError: No such taxonomy or templates, or the folder holds a set made another way.
    """
    taxonomy = load_taxonomy(config.taxonomy_name)
    prompts = load_prompts(config.prompts or taxonomy.template_set)
    load_shots(config.few_shot, taxonomy)
    if config.language is not None:
        check_language(config.language)
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
    captions: Sequence[Caption],
    *,
    run: RunDir,
    make: GeneratorMaker | None = None,
    make_judge: JudgeMaker | None = None,
    sees: bool = True,
) -> dict[str, object]:
    """Write the circuit-breaker set and the retain set of these captions.

    Args:
        config: What to write, and how.
        captions: Captions whose image paths are relative to the run's folder.
        run: The opened output folder.
        make: Loads a model; called only when a stage has work for it, one model at a time.
        make_judge: Makes the judge that `config.harm_judge` names.
        sees: Whether `config.model` takes images.

    Returns:
        The report, as in report.json.
    """
    make = make or (lambda name: make_generator(config.engine, name))
    files = SetFiles(config, run.path)
    files.prepare()
    taxonomy = load_taxonomy(config.taxonomy_name)
    decontamination = Decontamination(config)
    writer = cache(lambda: _load(make, config.writer))
    workshop = Workshop(
        config=config,
        writer=writer,
        prompts=load_prompts(config.prompts or taxonomy.template_set),
        shots=load_shots(config.few_shot, taxonomy),
        filters=PairFilters(config, decontamination),
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
    refusals = RefusalStage(files, {caption.id: caption for caption in captions}, sees=sees)
    if refusals.pending():
        refusals.run(_load(make, config.model))
    files.settle()
    examples = list(read_records(files.circuit_breaker, Example))
    retain = list(read_records(files.retain, Example))
    check_held_out([*examples, *retain], taxonomy)
    report = build_report(files, examples, retain, captions=captions, taxonomy=taxonomy)
    sets = {files.circuit_breaker: examples, files.retain: retain}
    write_report(files, report, sets=sets, captions=captions, taxonomy=taxonomy)
    _show(sets, captions, config)
    run.note("report", report)
    tell(report, files=files)
    return report


def _show(
    sets: Mapping[Path, Sequence[Example]], captions: Sequence[Caption], config: SynthesisConfig
) -> None:
    """The sets in the forms for other eyes and other tools."""
    if config.parquet:
        for path, examples in sets.items():
            write_parquet(path, examples)
    if config.gallery:
        texts = {caption.id: caption.text for caption in captions}
        index = write_gallery(sets, title=f"{config.folder.name}: training sets", captions=texts)
        _log.info("to review by eye: %s", index)


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
