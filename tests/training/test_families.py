"""Every family's recipe through its real set-up, and decoders that are in no row of the table."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mmcb.errors import MmcbError
from mmcb.models.families import FAMILIES, family_of_config
from mmcb.models.generic import check_decoder, generic_family, is_generic
from mmcb.models.loading import load_model
from mmcb.models.recipe_defaults import clip_lora_layers
from mmcb.training.config import TrainingConfig
from mmcb.training.recipes import preset, read_recipe, recipe_of
from mmcb.training.run import train
from mmcb.training.trainer import read_metrics
from tests.tiny_models import (
    OTHER_DECODERS,
    make_other_decoder,
    make_tiny_llava_1_5,
    make_tiny_llm,
    make_tiny_vlm,
)


def _one_step(folder: Path, data: Path, out: Path, **changes: object) -> Path:
    """A step of the family's own recipe, but for the size of the batch."""
    settings = {
        "model": str(folder),
        "data": data,
        "out": out,
        "steps": 1,
        "batch_size": 1,
        "retain_batch_size": 1,
        "validate_every": 0,
        "device": "cpu",
        "evaluate": False,
    }
    return train(TrainingConfig.model_validate(settings | changes))  # fmt: skip


def _adapted_blocks(run: Path) -> set[int]:
    from safetensors import safe_open

    with safe_open(run / "adapter" / "adapter_model.safetensors", framework="pt") as file:
        return {int(name.partition(".layers.")[2].partition(".")[0]) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", FAMILIES)
def test_every_recipe_runs(name: str, data_folder: Path, tmp_path: Path) -> None:
    family = FAMILIES[name]
    if family.kind == "vlm":
        make = make_tiny_llava_1_5 if name == "llava-1.5" else make_tiny_vlm
        folder = make(tmp_path / "model", num_blocks=family.num_blocks)
    else:
        folder = make_tiny_llm(
            tmp_path / "model", model_type=family.config_model_type, num_blocks=family.num_blocks
        )
    run = _one_step(folder, data_folder, tmp_path / "run")
    recipe, defaults = read_recipe(run / "recipe.json"), family.defaults
    assert recipe.target_layers == defaults.target_layers
    clipped = clip_lora_layers(defaults.lora_layers, target_layers=defaults.target_layers)
    assert recipe.lora_layers == clipped
    assert _adapted_blocks(run) == set(range(clipped[0], clipped[1] + 1))
    (row,) = read_metrics(run)
    assert row["reroute_cosine"] == pytest.approx(1, abs=1e-4)
    if defaults.reroute_target == "rr":
        assert row["reroute_loss"] == pytest.approx(1, abs=1e-4)
    assert row["grad_norm"] > 0


def test_a_decoder_in_no_row_gets_the_generic_recipe(
    data_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_tiny_llm(tmp_path / "model", model_type="qwen2", num_blocks=12)
    assert preset(str(folder)).target_layers == (4, 8)
    with caplog.at_level(logging.INFO, logger="mmcb"):
        run = _one_step(folder, data_folder, tmp_path / "run")
    (line,) = [r.getMessage() for r in caplog.records if "scaled to it" in r.getMessage()]
    assert "qwen2" in line
    assert "q_proj/k_proj/v_proj/o_proj/gate_proj/up_proj/down_proj" in line
    assert _adapted_blocks(run) == set(range(8))
    config = TrainingConfig(model=str(folder), steps=1, batch_size=1, retain_batch_size=1)
    assert read_recipe(run / "recipe.json") == recipe_of(config)


@pytest.mark.parametrize("name", OTHER_DECODERS)
def test_what_other_decoders_leave_loads_in_transformers(
    name: str, data_folder: Path, tmp_path: Path
) -> None:
    folder = make_other_decoder(tmp_path / "model", name)
    run = _one_step(folder, data_folder, tmp_path / "run", merge=True, learning_rate=0.01)
    assert _adapted_blocks(run) == {0, 1, 2, 3}
    ids = torch.arange(10, 40)[None]

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids).logits

    how = {"attn_implementation": "eager"}  # the only one that knows Gemma 2's soft caps
    base = AutoModelForCausalLM.from_pretrained(folder, **how)
    before = logits(base)
    torch.testing.assert_close(logits(load_model(str(folder)).model), before, atol=1e-4, rtol=1e-4)
    adapted = logits(PeftModel.from_pretrained(base, run / "adapter"))
    assert (adapted - before).abs().max() > 0.01
    merged = AutoModelForCausalLM.from_pretrained(run / "merged", **how)
    torch.testing.assert_close(logits(merged), adapted, atol=1e-3, rtol=1e-3)


def test_generic_targets_take_upstreams_share_of_the_depth() -> None:
    for blocks, targets in ((32, (10, 20)), (24, (8, 15)), (2, (1,))):
        family = generic_family({"model_type": "qwen3", "num_hidden_layers": blocks}, name="x")
        assert family.defaults.target_layers == targets
        assert family.defaults.lora_layers == (0, min(targets[-1], blocks - 1))
        assert is_generic(family)
    assert not any(is_generic(family) for family in FAMILIES.values())


def test_fused_maps_are_adapted() -> None:
    family = generic_family({"model_type": "phi3", "pad_token_id": 0}, name="x")
    assert family.lora_modules == ("o_proj", "down_proj", "qkv_proj", "gate_up_proj")


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("qwen2_vl", "vision-language model"),
        ("smolvlm", "vision-language model"),
        ("gemma3", "vision-language model"),
        ("gpt2", "no Llama-like decoder"),
        ("bert-of-mine", "neither mmcb nor transformers"),
    ],
)
def test_others_are_refused_in_a_sentence(tmp_path: Path, model_type: str, reason: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(MmcbError, match=reason) as caught:
        preset(str(tmp_path))
    assert caught.value.hint is not None
    assert "families.py" in caught.value.hint


@pytest.mark.parametrize("content", ['{"model_type": ', "[]"])
def test_a_broken_config_is_a_sentence_even_before_the_flags(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(MmcbError, match=r"config\.json"):
        preset(str(tmp_path))


def test_a_decoder_that_works_otherwise_is_refused(tmp_path: Path) -> None:
    """Granite's forward pass scales the embeddings, which `run_blocks` does not see."""
    folder = make_tiny_llm(tmp_path, model_type="granite", num_blocks=2)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"embedding_multiplier": 3.0}))
    loaded = load_model(str(folder), device="cpu")
    assert is_generic(loaded.family)
    with pytest.raises(MmcbError, match=r"gives other values for hidden_states\[0\]"):
        check_decoder(loaded)
    loaded.decoder.config.layer_types = ["full_attention", "attention_of_mine"]
    with pytest.raises(MmcbError, match="is built otherwise"):
        check_decoder(loaded)


def test_a_row_is_scaled_to_another_depth() -> None:
    """Llama-3.2-1B has 16 blocks, LLaVA-1.6 with Vicuna-13B 40: both types have a row of 32."""
    small = family_of_config({"model_type": "llama", "num_hidden_layers": 16})
    assert (small.name, small.num_blocks) == ("llama-3", 16)
    assert small.defaults.target_layers == (5, 10)
    assert small.defaults.lora_layers == (0, 10)
    assert small.defaults.no_request_fraction == FAMILIES["llama-3"].defaults.no_request_fraction
    text = {"num_hidden_layers": 40}
    large = family_of_config({"model_type": "llava_next", "text_config": text})
    assert large.defaults.target_layers == (20,)
    assert large.defaults.lora_layers == (18, 20)
    assert is_generic(small)
    # Never the miniature world's recipe, and its evaluation, for a stranger of another depth.
    assert not family_of_config(
        {"model_type": "mistral", "num_hidden_layers": 9}
    ).defaults.evaluate_after
