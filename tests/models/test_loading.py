import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mmcb.errors import MmcbError
from mmcb.models import locate
from mmcb.models.loading import LoadedModel, load_model
from mmcb.models.locate import check_model


def test_a_folder_gives_a_frozen_model_in_eval_mode(vlm: LoadedModel, llm: LoadedModel) -> None:
    assert vlm.is_vlm
    assert not llm.is_vlm
    for loaded in (vlm, llm):
        assert len(loaded.decoder_layers) == 8
        assert loaded.dtype == torch.float32
        assert loaded.device.type == "cpu"
        assert not loaded.model.training
        assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
        assert loaded.tokenizer.padding_side == "left"
        assert loaded.revision is not None
        assert loaded.revision.startswith("sha256:")


@pytest.mark.parametrize("kind", ["vlm", "llm"])
def test_fewer_blocks_are_the_first_ones(
    kind: str, vlm_folder: Path, llm_folder: Path, vlm: LoadedModel, llm: LoadedModel
) -> None:
    folder, whole = (vlm_folder, vlm) if kind == "vlm" else (llm_folder, llm)
    short = load_model(str(folder), num_blocks=3)
    assert len(short.decoder_layers) == 3
    for mine, theirs in zip(short.decoder_layers, whole.decoder_layers, strict=False):
        for left, right in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(left, right)
    with pytest.raises(MmcbError, match="8 decoder blocks, 9"):
        load_model(str(folder), num_blocks=9)


def test_an_adapter_changes_the_model_and_can_be_disabled(
    vlm_folder: Path, vlm: LoadedModel, tmp_path: Path
) -> None:
    adapter = make_adapter(vlm_folder, tmp_path / "adapter")
    adapted = load_model(str(vlm_folder), adapter=adapter)
    assert len(adapted.decoder_layers) == 8
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        plain = vlm.model(input_ids=ids).logits
        assert not torch.allclose(adapted.model(input_ids=ids).logits, plain, atol=1e-3)
        with adapted.adapter_disabled():
            assert torch.equal(adapted.model(input_ids=ids).logits, plain)
        with vlm.adapter_disabled():
            assert torch.equal(vlm.model(input_ids=ids).logits, plain)
    tower = adapted.base.model.vision_tower
    assert not any("lora" in name for name, _ in tower.named_parameters())
    short = load_model(str(vlm_folder), adapter=adapter, num_blocks=3)
    assert len(short.decoder_layers) == 3


def test_an_adapter_folder_without_safetensors_is_refused(vlm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match=r"adapter_config\.json"):
        load_model(str(vlm_folder), adapter=tmp_path)


def test_a_damaged_checkpoint_is_refused(llm_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "damaged"
    shutil.copytree(llm_folder, folder)
    state = load_file(folder / "model.safetensors")
    del state["model.layers.4.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MmcbError, match=r"lacks 1 weights.*layers\.4\.mlp\.up_proj"):
        load_model(str(folder))


def test_a_truncated_file_is_refused(llm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "truncated"
    shutil.copytree(llm_folder, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(MmcbError):
        load_model(str(folder))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8"])
def test_quantized_weights_are_refused(llm_folder: Path, tmp_path: Path, method: str) -> None:
    folder = tmp_path / "quantized"
    shutil.copytree(llm_folder, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": method, "bits": 4, "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(MmcbError, match=rf"quantized \({method}\)"):
        load_model(str(folder), device="cpu")


def test_a_missing_shard_is_named(llm_folder: Path, tmp_path: Path) -> None:
    load_model(str(llm_folder)).model.save_pretrained(tmp_path, max_shard_size="300KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(llm_folder / name, tmp_path)
    sorted(tmp_path.glob("*.safetensors"))[1].unlink()
    with pytest.raises(MmcbError, match="model-00002-of-"):
        load_model(str(tmp_path))


def test_a_folder_without_a_tokenizer_is_refused_before_its_weights_are_read(
    llm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(llm_folder / name, tmp_path)
    monkeypatch.setattr("mmcb.models.loading._load_weights", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(MmcbError, match="cannot load the processor"):
        load_model(str(tmp_path))


def test_pickled_weights_are_refused(llm_folder: Path, tmp_path: Path) -> None:
    shutil.copy(llm_folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(MmcbError, match="safetensors"):
        check_model(str(tmp_path))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match=r"config\.json"):
        check_model(str(tmp_path))


def test_bad_device_and_dtype(llm_folder: Path) -> None:
    with pytest.raises(MmcbError, match="device"):
        load_model(str(llm_folder), device="toaster")
    with pytest.raises(MmcbError, match="dtype"):
        load_model(str(llm_folder), dtype="int3")


class TestHub:
    @pytest.fixture(autouse=True)
    def _empty_cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("sys.argv", ["/x/mmcb/training/__main__.py", "--model", "llava-next"])

    def test_no_network_is_said_soon_with_a_command_that_works(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        start = time.monotonic()
        with pytest.raises(MmcbError, match="cannot be reached") as caught:
            load_model("llava-next")
        assert time.monotonic() - start < 10
        assert caught.value.hint is not None
        assert "python -m mmcb.training --model tiny-llava-next" in caught.value.hint

    def test_offline_asks_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr(locate, "_head_status", lambda url: pytest.fail("asked the network"))
        with pytest.raises(MmcbError, match="HF_HUB_OFFLINE") as caught:
            check_model("mistral")
        assert caught.value.hint is not None
        assert "--model tiny-mistral" in caught.value.hint

    @pytest.mark.parametrize(("status", "words"), [(401, "gated"), (404, "answered 404")])
    def test_the_hubs_refusal_is_passed_on(
        self, monkeypatch: pytest.MonkeyPatch, status: int, words: str
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(locate, "_head_status", lambda url: status)
        with pytest.raises(MmcbError, match=words):
            check_model("llama-3")


def test_same_command_replaces_the_model_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["/a/mmcb/synthesis/__main__.py", "--writer=mistral", "-n", "3"]
    )
    found = locate.same_command("mistral", substitute="tiny-mistral")
    assert found == "python -m mmcb.synthesis --writer=tiny-mistral -n 3"
    monkeypatch.setattr("sys.argv", ["/usr/bin/mmcb", "training"])
    found = locate.same_command("mistral", substitute="tiny-mistral")
    assert found == "mmcb training --model tiny-mistral"


def make_adapter(folder: Path, path: Path) -> Path:
    """A LoRA adapter on blocks 1-2 with weights that matter."""
    loaded = load_model(str(folder))
    config = LoraConfig(r=2, target_modules=loaded.family.lora_targets(1, 2))
    model = get_peft_model(loaded.model, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3, generator=generator)
    model.save_pretrained(str(path))
    return path
