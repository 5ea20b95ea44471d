"""The adapter of tiny-mistral as a LoRA module of the real vLLM, beside its base model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmcb.models.families import find_family
from mmcb.models.loading import load_model
from tests.vllm.engines import TEXT_PROMPTS, by_transformers, by_vllm, check_same, engine

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

MODEL = "tiny-mistral"


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    folder = find_family(MODEL).folder
    assert folder is not None
    # A slot more than adapters: vLLM 0.32's CPU kernels read index -1, "no adapter", as the last
    # slot, and would serve the base model's rows of a mixed batch with the adapter.
    with engine(folder, enable_lora=True, max_lora_rank=16, max_loras=2) as started:
        yield started


def test_base_and_adapter_answer_in_one_batch_as_in_transformers(
    llm: Any, trained: Callable[[str], Path]
) -> None:
    from vllm.lora.request import LoRARequest

    prompts = TEXT_PROMPTS
    adapter = trained(MODEL) / "adapter"
    adapted = by_transformers(load_model(MODEL, adapter=adapter, device="cpu"), prompts)
    base = by_transformers(load_model(MODEL, device="cpu"), prompts)
    assert any(a.ids != b.ids for a, b in zip(adapted, base, strict=True)), "nothing to tell apart"
    module = LoRARequest("circuit-breakers", 1, str(adapter))
    both = [*prompts, *prompts]
    modules = [*[module] * len(prompts), *[None] * len(prompts)]
    theirs = by_vllm(llm, both, is_vlm=False, lora=modules)
    check_same(both, theirs, [*adapted, *base])


def test_the_card_names_a_rank_that_vllm_takes() -> None:
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    from mmcb.models.export import VLLM_RANKS

    assert set(VLLM_RANKS) == set(get_args(MaxLoRARanks)) - {1}
