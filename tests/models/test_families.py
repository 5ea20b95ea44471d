import re
import subprocess
import sys

import pytest

from mmcb.errors import MmcbError
from mmcb.models.families import (
    FAMILIES,
    family_of_config,
    find_family,
    known_family,
)
from mmcb.models.recipe_defaults import clip_lora_layers


def test_every_row_is_consistent() -> None:
    for name, family in FAMILIES.items():
        recipe = family.defaults
        assert family.name == name
        assert (family.hub_id is None) == (family.local_path is not None)
        assert max(recipe.target_layers) <= family.num_blocks
        assert 0 <= recipe.lora_layers[0] <= recipe.lora_layers[1] < family.num_blocks
        assert recipe.horizon == 2 * recipe.steps


def test_lora_is_clipped_to_what_the_last_target_can_see() -> None:
    # hidden_states[16] is the output of block 15: block 16 comes after it.
    clipped = {
        name: clip_lora_layers(
            family.defaults.lora_layers, target_layers=family.defaults.target_layers
        )
        for name, family in FAMILIES.items()
    }
    assert clipped["llava-next"] == (14, 15)
    assert clipped["mistral"] == (0, 19)
    assert clipped["tiny-mistral"] == (0, 5)
    assert clip_lora_layers((0, 20), target_layers=(10, 32)) == (0, 20)


def test_lora_targets_name_the_decoder_and_not_the_vision_tower() -> None:
    pattern = re.compile(find_family("llava-next").lora_targets(1, 10))
    assert pattern.fullmatch("model.language_model.layers.1.self_attn.q_proj")
    assert pattern.fullmatch("model.language_model.layers.10.mlp.down_proj")
    assert not pattern.fullmatch("model.language_model.layers.11.mlp.down_proj")
    assert not pattern.fullmatch("model.language_model.layers.0.mlp.down_proj")
    assert not pattern.fullmatch("model.vision_tower.encoder.layers.1.self_attn.q_proj")


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(MmcbError, match="llava-nxt") as caught:
        find_family("llava-nxt")
    assert caught.value.hint is not None
    assert "did you mean llava-next?" in caught.value.hint


def test_known_family_takes_hub_ids_and_folders(tmp_path: object) -> None:
    assert known_family("mistralai/Mistral-7B-Instruct-v0.2") is FAMILIES["mistral"]
    assert known_family("someone/finetune") is None
    assert known_family(str(tmp_path)) is None
    with pytest.raises(MmcbError):
        known_family("no such model")


def test_family_of_config_goes_by_type_then_depth() -> None:
    deep = {"model_type": "llava_next", "text_config": {"num_hidden_layers": 32}}
    shallow = {"model_type": "llava_next", "text_config": {"num_hidden_layers": 8}}
    assert family_of_config(deep).name == "llava-next"
    assert family_of_config(shallow).name == "tiny-llava-next"
    assert (
        family_of_config({"model_type": "mistral", "num_hidden_layers": 8}).name == "tiny-mistral"
    )
    with pytest.raises(MmcbError, match="gpt2"):
        family_of_config({"model_type": "gpt2"})


def test_the_table_and_the_protocol_import_no_torch() -> None:
    code = (
        "import sys, mmcb.models.families, mmcb.models.locate, mmcb.generation.factory\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
