"""The merged checkpoint of tiny-mistral in the real vLLM."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmcb.models.loading import load_model
from tests.vllm.engines import TEXT_PROMPTS, by_transformers, by_vllm, check_same, engine

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

MODEL = "tiny-mistral"


@pytest.fixture(scope="module")
def llm(trained: Callable[[str], Path]) -> Iterator[Any]:
    with engine(trained(MODEL) / "merged") as started:
        yield started


def test_merged_checkpoint_answers_as_base_and_adapter_do(
    llm: Any, trained: Callable[[str], Path]
) -> None:
    prompts = TEXT_PROMPTS
    adapted = load_model(MODEL, adapter=trained(MODEL) / "adapter", device="cpu")
    ours = by_transformers(adapted, prompts)
    check_same(prompts, by_vllm(llm, prompts, is_vlm=False), ours)
    base = by_transformers(load_model(MODEL, device="cpu"), prompts)
    assert any(a.ids != b.ids for a, b in zip(ours, base, strict=True)), "the adapter does nothing"
