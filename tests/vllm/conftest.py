"""What the tests of the real vLLM share: it starts slowly, so every engine starts once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.generation.serve import cpu_environment, vllm_serve
from mmcb.generation.protocol import TextGenerator
from mmcb.miniature.config import MiniatureConfig
from mmcb.miniature.world import write_world
from mmcb.training.run import train
from tests.training.data import write_data
from tests.training.helpers import tiny_config
from tests.vllm.engines import Started, checkpoint, engine, in_process


@pytest.fixture(scope="session", autouse=True)
def environment() -> None:
    """Read by vLLM when it is imported."""
    os.environ.update(cpu_environment())


@pytest.fixture(scope="module")
def llm(request: pytest.FixtureRequest, trained: Callable[[str], Path]) -> Iterator[Started]:
    """vLLM's own class on (model, `merged` or `lora`), as `parametrize` asks for it."""
    model, kind = request.param
    options: dict[str, object] = {}
    if model == "tiny-llava-next":
        options["limit_mm_per_prompt"] = {"image": 1}
    if kind == "lora":
        # A slot more than adapters: vLLM 0.32's CPU kernels read index -1, "no adapter", as the
        # last slot, and would serve the base model's rows of a mixed batch with the adapter.
        options |= {"enable_lora": True, "max_lora_rank": 16, "max_loras": 2}
    path = trained(model) / "merged" if kind == "merged" else checkpoint(model)
    with engine(path, **options) as started:
        yield Started(model, started)


@pytest.fixture(scope="session")
def vlm() -> TextGenerator:
    """The shipped vision-language model in this process."""
    return in_process("tiny-llava-next")


@pytest.fixture(scope="session")
def writer() -> TextGenerator:
    """The shipped language model in this process."""
    return in_process("tiny-mistral")


@pytest.fixture(scope="session")
def vlm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the shipped vision-language model."""
    log = tmp_path_factory.mktemp("log") / "vlm.log"
    with vllm_serve(checkpoint("tiny-llava-next"), name="tiny-llava-next", log=log) as url:
        yield url


@pytest.fixture(scope="session")
def writer_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the shipped language model."""
    log = tmp_path_factory.mktemp("log") / "writer.log"
    with vllm_serve(checkpoint("tiny-mistral"), name="tiny-mistral", log=log) as url:
        yield url


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Train a shipped model for some steps, once; its run's folder."""
    runs: dict[str, Path] = {}

    def run_of(model: str) -> Path:
        if model not in runs:
            folder = tmp_path_factory.mktemp("vllm")
            config = tiny_config(
                model=model, data=write_data(folder), out=folder / "run", merge=True,
                steps=30, target_layers=(4, 6), lora_layers=(0, 5), mask="completion",
                retain_weight=5.0, embedding_noise=0.0,  # so few steps have to tell
            )  # fmt: skip
            runs[model] = train(config)
        return runs[model]

    return run_of


@pytest.fixture(scope="session")
def pictures_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature world of a few pictures."""
    out = tmp_path_factory.mktemp("world") / "world"
    few = {"num_train": 2, "num_val": 2, "num_test": 2, "num_behaviors": 2, "num_tasks": 2}
    write_world(MiniatureConfig(out=out, num_instructions=2, **few))
    return out
