"""The adapter as a LoRA module of a real vLLM server, started with the flags of docs/serve.md."""

import base64
import json
import shlex
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.generation.serve import vllm_serve
from mmcb.models.families import find_family
from mmcb.models.loading import load_model
from tests.vllm.engines import (
    MAX_NEW_TOKENS,
    TEXT_PROMPTS,
    Answer,
    Prompt,
    by_transformers,
    check_same,
    picture_prompts,
)

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

MODEL = "tiny-llava-next"
DOCS = Path(__file__).parents[2] / "docs" / "serve.md"
DOCUMENTED_ADAPTER = "runs/training/RUN/adapter"


def _documented_flags(adapter: Path) -> list[str]:
    """Flags of the documented command, with another adapter's folder."""
    lines = DOCS.read_text().replace("\\\n", " ").splitlines()
    (command,) = (line for line in lines if "--enable-lora" in line)
    words = shlex.split(command)
    assert words[:2] == ["vllm", "serve"]
    assert any(DOCUMENTED_ADAPTER in word for word in words)
    return [word.replace(DOCUMENTED_ADAPTER, str(adapter)) for word in words[3:]]


def _ask(url: str, model: str, prompt: Prompt, *, end: int) -> Answer:
    content: list[dict[str, Any]] = [{"type": "text", "text": prompt.text}]
    if prompt.image is not None:
        data = base64.b64encode(prompt.image.read_bytes()).decode()
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        content.insert(0, image)
    body = {
        "model": model, "messages": [{"role": "user", "content": content}], "temperature": 0.0,
        "max_tokens": MAX_NEW_TOKENS, "return_token_ids": True,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        told = json.load(response)
    (choice,) = told["choices"]
    ids = choice["token_ids"]
    return Answer(told["prompt_token_ids"], ids[: ids.index(end)] if end in ids else ids)


def test_base_and_adapter_answer_behind_one_server_as_in_transformers(
    trained: Callable[[str], Path], pictures_world: Path, tmp_path: Path
) -> None:
    prompts = (*TEXT_PROMPTS, *picture_prompts(pictures_world))
    adapter = trained(MODEL) / "adapter"
    adapted = by_transformers(load_model(MODEL, adapter=adapter, device="cpu"), prompts)
    loaded = load_model(MODEL, device="cpu")
    base = by_transformers(loaded, prompts)
    assert any(a.ids != b.ids for a, b in zip(adapted, base, strict=True)), "nothing to tell apart"
    folder = find_family(MODEL).folder
    assert folder is not None
    flags = [*_documented_flags(adapter), "--max-model-len", "512", "--max-num-seqs", "4"]
    end = int(loaded.tokenizer.eos_token_id)
    with vllm_serve(folder, name=MODEL, log=tmp_path / "log", flags=flags) as url:
        by_adapter = [_ask(url, "circuit-breakers", prompt, end=end) for prompt in prompts]
        by_base = [_ask(url, MODEL, prompt, end=end) for prompt in prompts]
    check_same(prompts, by_adapter, adapted)
    check_same(prompts, by_base, base)
