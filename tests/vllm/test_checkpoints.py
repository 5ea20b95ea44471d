"""Adapters as LoRA modules of the real vLLM, and merged checkpoints, with pictures and without."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmcb.models.loading import load_model
from tests.vllm.engines import Started, by_transformers, by_vllm, check_same

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

MODELS = ("tiny-mistral", "tiny-llava-next")


def as_asked(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("llm", [(m, kind) for m in MODELS], indirect=True, ids=MODELS)


@as_asked("merged")
def test_merged_checkpoint_answers_as_base_and_adapter_do(
    llm: Started, trained: Callable[[str], Path], pictures_world: Path
) -> None:
    prompts = llm.prompts(pictures_world)
    adapter = trained(llm.model) / "adapter"
    ours = by_transformers(load_model(llm.model, adapter=adapter, device="cpu"), prompts)
    check_same(prompts, by_vllm(llm.llm, prompts, is_vlm=llm.is_vlm), ours)
    base = by_transformers(load_model(llm.model, device="cpu"), prompts)
    assert any(a.ids != b.ids for a, b in zip(ours, base, strict=True)), "the adapter does nothing"


@as_asked("lora")
def test_base_and_adapter_answer_in_one_batch_as_in_transformers(
    llm: Started, trained: Callable[[str], Path], pictures_world: Path
) -> None:
    from vllm.lora.request import LoRARequest

    prompts = llm.prompts(pictures_world)
    adapter = trained(llm.model) / "adapter"
    adapted = by_transformers(load_model(llm.model, adapter=adapter, device="cpu"), prompts)
    base = by_transformers(load_model(llm.model, device="cpu"), prompts)
    assert any(a.ids != b.ids for a, b in zip(adapted, base, strict=True)), "nothing to tell apart"
    module = LoRARequest("circuit-breakers", 1, str(adapter))
    both = [*prompts, *prompts]
    modules = [*[module] * len(prompts), *[None] * len(prompts)]
    theirs = by_vllm(llm.llm, both, is_vlm=llm.is_vlm, lora=modules)
    check_same(both, theirs, [*adapted, *base])


def test_the_card_names_a_rank_that_vllm_takes() -> None:
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    from mmcb.models.export import VLLM_RANKS

    assert set(VLLM_RANKS) == set(get_args(MaxLoRARanks)) - {1}
