"""The stages of pretraining in their order; each resumes from its checkpoint."""

import shutil
from pathlib import Path
from typing import Any

from transformers import LlavaNextForConditionalGeneration, MistralForCausalLM

from mmcb.log import get_logger
from mmcb.miniature.architecture import make_llm, make_processor, make_vlm
from mmcb.miniature.config import MiniatureConfig
from mmcb.miniature.pretrain.card import CARDS, measure, write_card
from mmcb.miniature.pretrain.config import PretrainConfig
from mmcb.miniature.pretrain.joint import joint_loss
from mmcb.miniature.pretrain.loop import Plan, fit
from mmcb.miniature.pretrain.pictures import draw_pool
from mmcb.miniature.pretrain.text import make_tokenizer, text_loss
from mmcb.miniature.pretrain.tower import TowerWithHeads, tower_loss
from mmcb.miniature.world import write_world
from mmcb.models.export import save_weights
from mmcb.models.families import find_family
from mmcb.models.seeding import seeded
from mmcb.run_folder import RunDir

WEIGHTS = Path(__file__).parents[1] / "weights"

_LOG = get_logger(__name__)


def pretrain(config: PretrainConfig) -> None:
    """Runs every stage and saves both models under `config.out`.

    Raises:
        MmcbError: the folder holds models of other settings.
    """
    may_change = frozenset({"out", "install"})
    with RunDir.start(
        config.out, command="miniature.pretrain", config=config, may_change=may_change
    ):
        _run_stages(config)


def _run_stages(config: PretrainConfig) -> None:
    tokenizer = make_tokenizer(seed=config.seed)
    llm = make_llm(tokenizer, seed=config.seed)
    fit(
        llm,
        lambda step: text_loss(llm, tokenizer, seed=config.seed, step=step),
        plan=Plan("text", config.text_steps, 2e-3),
        folder=config.out,
    )
    _save(llm, tokenizer, config.out / "tiny-mistral")
    processor = make_processor(tokenizer)
    vlm = make_vlm(tokenizer, seed=config.seed)
    _copy_decoder(llm, vlm)
    pool = draw_pool(config.num_pictures, folder=config.out)
    with seeded(config.seed):
        tower = TowerWithHeads(vlm.model.vision_tower)
    images = processor.image_processor
    fit(
        tower,
        lambda step: tower_loss(tower, pool, image_processor=images, seed=config.seed, step=step),
        plan=Plan("tower", config.tower_steps, 2e-3),
        folder=config.out,
    )
    fit(
        vlm,
        lambda step: joint_loss(vlm, pool, processor=processor, seed=config.seed, step=step),
        plan=Plan("joint", config.joint_steps, 2e-3),
        folder=config.out,
    )
    fit(
        vlm,
        lambda step: joint_loss(
            vlm,
            pool,
            processor=processor,
            seed=config.seed,
            step=config.joint_steps + step,  # batches that no stage has seen
            every_caption=True,
        ),
        plan=Plan("captions", config.caption_steps, 1e-3),
        folder=config.out,
    )
    _save(vlm, processor, config.out / "tiny-llava-next")
    _describe(config)
    if config.install:
        for name in CARDS:
            shutil.copytree(config.out / name, WEIGHTS / name, dirs_exist_ok=True)
            _LOG.info("installed %s", WEIGHTS / name)


def _describe(config: PretrainConfig) -> None:
    """Measures both models on test material that is drawn for it, and writes their cards."""
    world = config.out / "world"
    write_world(MiniatureConfig(out=world))
    for name, (title, about) in CARDS.items():
        figures = measure(config.out / name, world)
        for figure in figures:
            _LOG.info("%s: %s: %.3f (n=%d)", name, *figure)
        write_card(config.out / name, title=title, about=about, figures=figures)


def _copy_decoder(llm: MistralForCausalLM, vlm: LlavaNextForConditionalGeneration) -> None:
    """As in the real LLaVA: the decoder starts from the language model's weights."""
    vlm.model.language_model.load_state_dict(llm.model.state_dict())
    vlm.lm_head.load_state_dict(llm.lm_head.state_dict())


def _save(model: Any, processor: Any, folder: Path) -> None:
    """Writes a checkpoint that transformers and vLLM load: safetensors, configs, tokenizer."""
    model.save_pretrained(folder)
    save_weights(model, folder, family=find_family(folder.name))
    processor.save_pretrained(folder)
