"""From captions to both sets, stage after stage; every stage goes on where it was cut short."""

import gc
import sys
from collections.abc import Callable, Sequence

from mmcb.generation.factory import make_generator
from mmcb.generation.protocol import TextGenerator
from mmcb.log import get_logger
from mmcb.records import Caption, Example
from mmcb.runs import RunDir
from mmcb.store import file_hash, read_records
from mmcb.synthesis.categories import load_taxonomy, taxonomy_file
from mmcb.synthesis.circuit_breaker import check_held_out, circuit_breaker_stage
from mmcb.synthesis.config import RESUMABLE, SynthesisConfig
from mmcb.synthesis.files import SetFiles
from mmcb.synthesis.report import build_report, tell, write_report
from mmcb.synthesis.retain import RefusalStage, add_captions, add_instructions, retain_stages
from mmcb.synthesis.templates import load_prompts

GeneratorMaker = Callable[[str], TextGenerator]
"""Loads the model of this name."""

_log = get_logger(__name__)


def start_run(config: SynthesisConfig) -> RunDir:
    """Open the output folder, after a look at everything that needs no model.

    Raises:
        MmcbError: No such taxonomy or templates, or the folder holds a set made another way.
    """
    taxonomy = load_taxonomy(config.taxonomy_name)
    load_prompts(config.prompts or taxonomy.template_set)
    return RunDir.start(
        config.folder,
        command="synthesis",
        config=config,
        inputs={"taxonomy": taxonomy_file(config.taxonomy_name)},
        may_change=RESUMABLE,
    )


def synthesize(
    config: SynthesisConfig,
    captions: Sequence[Caption],
    *,
    run: RunDir,
    make: GeneratorMaker | None = None,
    sees: bool = True,
) -> dict[str, object]:
    """Write the circuit-breaker set and the retain set of these captions.

    Args:
        config: What to write, and how.
        captions: Captions whose image paths are relative to the run's folder.
        run: The opened output folder.
        make: Loads a model; called only when a stage has work for it, one model at a time.
        sees: Whether `config.model` takes images.

    Returns:
        The report, as in report.json.
    """
    make = make or (lambda name: make_generator(config.engine, name))
    files = SetFiles(config, run.path)
    files.prepare()
    taxonomy = load_taxonomy(config.taxonomy_name)
    prompts = load_prompts(config.prompts or taxonomy.template_set)
    stages = [circuit_breaker_stage(captions, files, taxonomy), *retain_stages(captions, files)]
    if any(stage.pending() for stage in stages):
        writer = _load(make, config.writer)
        for stage in stages:
            stage.run(writer, prompts)
        del writer
    add_captions(captions, files)
    add_instructions(files)
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
    write_report(files, report)
    run.note("report", report)
    tell(report, files=files)
    return report


def _load(make: GeneratorMaker, name: str) -> TextGenerator:
    """Load a model into the memory that the one before has left."""
    gc.collect()
    torch = sys.modules.get("torch")  # not imported for this: then nothing is held on a GPU either
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    _log.info("loading %s", name)
    return make(name)
