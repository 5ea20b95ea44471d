import json
import shutil
from pathlib import Path

import pytest

from mmcb.errors import MmcbError
from mmcb.models.export import save_adapter
from mmcb.models.loading import load_model
from tests.models.test_export import adapted
from tests.tiny_models import make_tiny_llm


@pytest.fixture(scope="module")
def adapter(llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on blocks 1 and 2 of a Mistral."""
    return save_adapter(adapted(llm_folder), tmp_path_factory.mktemp("adapter"))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"model_type": "qwen2"}, "trained on a MistralForCausalLM, and this is a Qwen2"),
        ({"num_blocks": 2}, r"no place for .*layers\.2\."),
        ({"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}, "size mismatch"),
    ],
)
def test_another_models_adapter_is_refused(
    adapter: Path, tmp_path: Path, model: dict[str, object], reason: str
) -> None:
    folder = make_tiny_llm(tmp_path, **{"num_blocks": 3, **model})
    with pytest.raises(MmcbError, match=reason):
        load_model(str(folder), adapter=adapter)


def test_damaged_files_are_refused(adapter: Path, llm_folder: Path, tmp_path: Path) -> None:
    for name, content in (("adapter_config.json", "{"), ("adapter_model.safetensors", "xx")):
        folder = tmp_path / name
        shutil.copytree(adapter, folder)
        (folder / name).write_text(content)
        with pytest.raises(MmcbError, match="does not fit"):
            load_model(str(llm_folder), adapter=folder)


def test_an_adapter_that_does_not_say_its_base_is_taken(
    adapter: Path, llm_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"auto_mapping": None}))
    assert load_model(str(llm_folder), adapter=folder).model is not None
