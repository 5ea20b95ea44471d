"""What runs a model that writes text: one block of flags that several commands share. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro
from pydantic import Field, field_validator, model_validator

from mmcb.config import Config

EngineName = Literal["transformers", "vllm", "server"]


class EngineConfig(Config):
    """What runs a model, and how. A setting that the chosen engine does not have is ignored."""

    name: Annotated[EngineName, tyro.conf.arg(name="engine")] = "transformers"
    """What runs the models: transformers or vllm in this process, or an OpenAI-compatible server
    (`--server-url`)."""

    device: str = "auto"
    """transformers: auto (a GPU if there is one), cpu, cuda, cuda:1..."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """transformers and vllm: precision; auto is float32 on a CPU and for float32 checkpoints, else
    bfloat16."""

    tensor_parallel_size: int = Field(default=1, ge=1)
    """vllm: GPUs that share each copy of the model."""

    data_parallel_size: int = Field(default=1, ge=1)
    """vllm: copies of the model, each on GPUs of its own."""

    gpu_memory_utilization: float = Field(default=0.9, gt=0.0, le=1.0)
    """vllm: share of the memory that it may take."""

    max_model_len: int | None = Field(default=None, ge=1)
    """vllm: longest prompt and answer together, in tokens (default: the model's own)."""

    server_url: tuple[str, ...] = ()
    """server: base URLs, such as http://localhost:8000/v1; each model is looked for in all. The
    key is read from OPENAI_API_KEY."""

    server_retries: int = Field(default=8, ge=0)
    """server: how often a request is sent again after 429, 408, 409, 5xx or a cut connection; waits
    double from 0.5 to 8 s, or are as long as the server asks."""

    server_timeout: float = Field(default=60.0, gt=0.0)
    """server: seconds without a byte, whichever request it is for, after which the run ends; more
    for a server that takes longer to begin its first answer."""

    concurrency: int = Field(default=64, ge=1)
    """vllm and server: requests in flight at once (the batch size is for transformers)."""

    @field_validator("server_url")
    @classmethod
    def _with_path(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_base_url(url) for url in urls)

    @model_validator(mode="after")
    def _server_has_a_url(self) -> EngineConfig:
        if self.name == "server" and not self.server_url:
            raise ValueError("--engine server needs --server-url, such as http://localhost:8000/v1")
        return self


EngineFlags = Annotated[EngineConfig, tyro.conf.arg(name="")]
"""A command's field `engine`: its flags stand beside the command's own, without a prefix."""


def _base_url(url: str) -> str:
    """The URL with the API's usual path, when it has none."""
    scheme, separator, rest = url.partition("://")
    if scheme not in ("http", "https") or not separator or not rest.strip("/"):
        raise ValueError(f"{url!r} is not a URL such as http://localhost:8000/v1")
    rest = rest.rstrip("/")
    return f"{scheme}://{rest}" if "/" in rest else f"{scheme}://{rest}/v1"
