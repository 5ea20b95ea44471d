import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open

from mmcb.errors import MmcbError
from mmcb.models.export import hub_key, merge_adapter, save_adapter
from mmcb.models.families import find_family
from mmcb.models.loading import LoadedModel, load_model
from tests.tiny_models import make_tiny_llava_1_5


def adapted(folder: Path) -> LoadedModel:
    from dataclasses import replace

    loaded = load_model(str(folder))
    config = LoraConfig(r=2, target_modules=loaded.family.lora_targets(1, 2))
    model = get_peft_model(loaded.model, config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3, generator=generator)
    return replace(loaded, model=model)


@pytest.mark.parametrize("kind", ["vlm", "llm", "llava-1.5"])
def test_adapter_and_merged_checkpoint_give_the_trained_model(
    kind: str, vlm_folder: Path, llm_folder: Path, tmp_path: Path
) -> None:
    folders = {"vlm": vlm_folder, "llm": llm_folder, "llava-1.5": tmp_path / "llava-1.5"}
    folder = folders[kind]
    if kind == "llava-1.5":
        make_tiny_llava_1_5(folder)
    trained = adapted(folder)
    adapter = save_adapter(trained, tmp_path / "adapter")
    assert (adapter / "adapter_model.safetensors").is_file()
    merged_folder = merge_adapter(trained, adapter, tmp_path / "merged")
    again, merged = load_model(str(folder), adapter=adapter), load_model(str(merged_folder))
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        expected = trained.model(input_ids=ids).logits
        assert torch.equal(again.model(input_ids=ids).logits, expected)
        torch.testing.assert_close(
            merged.model(input_ids=ids).logits, expected, atol=1e-3, rtol=1e-3
        )
    assert merged.family.name == trained.family.name
    if kind == "llava-1.5":
        with safe_open(merged_folder / "model.safetensors", "pt") as file:
            keys = set(file.keys())
        assert "language_model.model.layers.7.mlp.down_proj.weight" in keys
        assert "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight" in keys


def test_merged_vlm_has_the_hubs_keys_and_files(vlm_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(adapted(vlm_folder), tmp_path / "adapter")
    merged = merge_adapter(str(vlm_folder), adapter, tmp_path / "merged")
    with safe_open(merged / "model.safetensors", "pt") as file:
        keys = set(file.keys())
    assert "language_model.model.layers.7.mlp.down_proj.weight" in keys
    assert "language_model.lm_head.weight" in keys
    assert "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight" in keys
    assert "multi_modal_projector.linear_1.weight" in keys
    assert "image_newline" in keys
    prefixes = ("language_model.", "vision_tower.vision_model.", "multi_modal_projector.")
    assert all(key.startswith(prefixes) or key == "image_newline" for key in keys)
    assert not any("lora" in key for key in keys)
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        assert json.loads((merged / name).read_text(encoding="utf-8"))
    assert (merged / "tokenizer.json").is_file()
    assert (merged / "chat_template.jinja").is_file()


def test_a_second_export_replaces_the_first(llm_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(adapted(llm_folder), tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "model-00001-of-00002.safetensors").write_bytes(b"old")
    merge_adapter(str(llm_folder), adapter, tmp_path / "merged")
    assert [path.name for path in (tmp_path / "merged").glob("*.safetensors")] == [
        "model.safetensors"
    ]


def test_hub_key_leaves_other_families_alone() -> None:
    mistral = find_family("mistral")
    assert hub_key("model.layers.0.mlp.up_proj.weight", family=mistral) == (
        "model.layers.0.mlp.up_proj.weight"
    )


def test_no_adapter_no_save(vlm: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="no adapter"):
        save_adapter(vlm, tmp_path)
