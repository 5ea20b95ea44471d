"""Text from vLLM in this process: continuous batching, answers as they come.

`AsyncLLM` and not `LLM`, because `LLM` gives nothing out before everything is done, and refuses
more than one copy of the model. Prompts are encoded, and answers decoded, as in the transformers
engine, so both are asked the same tokens. vLLM is told every setting that it would otherwise take
from the checkpoint's own defaults.

What cannot be the same: vLLM stops an answer at `max_model_len` (`length`), and draws its own
random numbers, so sampled text differs from the other engines' for one seed. Greedy text differs
only where two tokens are as good as equal, within the last bits of floating point.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.generation.config import EngineConfig
from mmcb.generation.images import open_image
from mmcb.generation.in_flight import BackgroundLoop
from mmcb.generation.protocol import Completion, Request, Sampling
from mmcb.generation.tokens import (
    Job,
    completion_of,
    encode_requests,
    end_ids,
    failure,
    request_seed,
    require_words,
)
from mmcb.log import get_logger
from mmcb.models.chat import image_token_id
from mmcb.models.export import VLLM_RANKS
from mmcb.models.reading import ModelReader, read_model

_CPU_CACHE_BYTES = 4 << 30
"""Keys and values that a CPU keeps, unless VLLM_CPU_KVCACHE_SPACE (in GiB) says otherwise."""

_SHUTDOWN_S = 30.0
"""How long vLLM's processes have to clear up their shared memory before they are killed."""

_log = get_logger(__name__)


def require_vllm() -> None:
    """Say at once that vLLM is not installed.

    Raises:
        MmcbError: it is not.
    """
    if importlib.util.find_spec("vllm") is None:
        raise MmcbError("--engine vllm needs vLLM", hint="pip install 'mmcb[vllm]'")


class VllmGenerator:
    """A `TextGenerator` over a vLLM engine, which lives until this object goes."""

    def __init__(self, model: str, config: EngineConfig, *, adapter: Path | None = None) -> None:
        require_vllm()
        self._reader = read_model(model)
        self.name: str = self._reader.name
        self.revision: str | None = self._reader.revision
        self._limit = config.concurrency
        self._max_length = _max_length(self._reader, config)
        self._end_ids = end_ids(self._reader.tokenizer, self._reader.generation_config)
        self._lora = None if adapter is None else _lora_request(adapter)
        self._running = _Running(_engine_settings(self._reader, config, adapter), name=model)
        weakref.finalize(self, self._running.close)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        """Answer every request exactly once, as the answers come; `sampling.batch_size` is unused.

        A request that cannot be run is answered with `finish_reason="error"` and logged.

        Raises:
            MmcbError: images for a model that takes none, or vLLM failed.
        """
        require_words(requests, engine="vllm")
        jobs, failed = encode_requests(self._reader, requests, max_length=self._max_length)
        if failed:
            yield failed
        by_id = {job.request.id: job for job in jobs}
        yield from self._running.loop.answers(
            lambda request: self._answer(by_id[request.id], sampling),
            [job.request for job in jobs],
            limit=self._limit,
        )

    async def _answer(self, job: Job, sampling: Sampling) -> Completion:
        from vllm.exceptions import VLLMValidationError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            prompt = await asyncio.to_thread(self._prompt, job)
        except MmcbError as error:
            return failure(job.request, error)
        params = self._params(job, sampling)
        try:
            stream = self._running.engine.generate(
                prompt, params, job.request.id, lora_request=self._lora
            )
            outputs = [output async for output in stream]
        except (VLLMValidationError, ValueError) as error:
            return failure(job.request, error)
        except (EngineDeadError, EngineGenerateError) as error:
            raise MmcbError(
                f"vLLM failed at request {job.request.id}: {error.__cause__ or error}",
                hint="the same command goes on from here; VLLM_LOGGING_LEVEL=INFO tells more",
            ) from error
        new_ids = list(outputs[-1].outputs[0].token_ids)
        return completion_of(self._reader, job, new_ids, end_ids=self._end_ids)

    def _prompt(self, job: Job) -> dict[str, Any]:
        """The prompt's tokens, with one image token in the place of all: vLLM expands it."""
        ids, image = job.encoded.input_ids, job.request.image
        if image is None:
            return {"prompt_token_ids": ids}
        first = ids.index(image_token_id(self._reader))
        return {
            "prompt_token_ids": ids[: first + 1] + ids[job.encoded.after_image_start :],
            "multi_modal_data": {"image": open_image(image)},
        }

    def _params(self, job: Job, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        schema = job.request.json_schema
        return SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            seed=request_seed(sampling.seed, job.request.id),
            stop_token_ids=self._end_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=None
            if schema is None
            else StructuredOutputsParams(json=dict(schema)),
        )


def _max_length(reader: ModelReader, config: EngineConfig) -> int | None:
    own = getattr(reader.config.get_text_config(), "max_position_embeddings", None)
    return min((n for n in (own, config.max_model_len) if n is not None), default=None)


def _engine_settings(
    reader: ModelReader, config: EngineConfig, adapter: Path | None
) -> dict[str, Any]:
    import torch
    from vllm.platforms import current_platform

    from mmcb.models.loading import pick_dtype

    on_cpu = bool(current_platform.is_cpu())
    device = torch.device("cpu" if on_cpu else "cuda")
    settings: dict[str, Any] = {
        "model": reader.location.source,
        "dtype": str(pick_dtype(config.dtype, reader.config, device)).removeprefix("torch."),
        "tensor_parallel_size": config.tensor_parallel_size,
        "data_parallel_size": config.data_parallel_size,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "max_model_len": _max_length(reader, config),
        "trust_remote_code": False,
        "load_format": "safetensors",
        # To compile for a CPU takes minutes and a C++ compiler.
        "enforce_eager": on_cpu,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if on_cpu and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        # A share of all memory, as on a GPU, is too much beside other programs.
        settings["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    if reader.is_vlm:
        settings["limit_mm_per_prompt"] = {"image": 1}
    if adapter is not None:
        # A slot more than adapters: vLLM 0.32's CPU kernels take "no adapter" for the last slot.
        settings |= {"enable_lora": True, "max_lora_rank": _lora_room(adapter), "max_loras": 2}
    return settings


class _Running:
    """A vLLM engine and the loop that it lives in; nothing else holds either."""

    def __init__(self, settings: dict[str, Any], *, name: str) -> None:
        self.loop = BackgroundLoop()
        self.engine: Any = _start(settings, self.loop, name=name)

    def close(self) -> None:
        """End vLLM's processes, then the loop; the engine is gone when this returns.

        It calls its own shutdown when it is collected. Left to the end of the interpreter, that
        would find vLLM's modules emptied, and print a traceback.
        """
        engine, self.engine = self.engine, None
        # First who reads its answers: it would take the end for a crash, and print a traceback.
        if engine.output_handler is not None:
            self.loop.run(_cancel(engine.output_handler))
        engine.shutdown(timeout=_SHUTDOWN_S)
        self.loop.close()
        del engine
        gc.collect()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _start(settings: dict[str, Any], loop: BackgroundLoop, *, name: str) -> Any:
    # It tells its whole life at INFO and its own defaults as WARNINGs; read when it is imported.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    async def start() -> Any:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**settings))

    _log.info("starting vLLM with %s: about a minute", name)
    try:
        return loop.run(start())
    except Exception as error:  # whatever vLLM raises, of many kinds
        loop.close()
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise MmcbError(
            f"vLLM cannot run {name}: {lines[0]}",
            hint="VLLM_LOGGING_LEVEL=INFO tells more; --engine transformers needs no vLLM",
        ) from error


def _lora_request(adapter: Path) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(adapter.name, 1, str(adapter.resolve()))


def _lora_room(adapter: Path) -> int:
    """The smallest rank of vLLM's that the adapter fits into.

    Raises:
        MmcbError: no adapter there, or one of too high a rank.
    """
    try:
        rank = int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError) as error:
        raise MmcbError(f"{adapter} is not an adapter: {error}") from None
    room = next((size for size in VLLM_RANKS if size >= rank), None)
    if room is None:
        raise MmcbError(
            f"vLLM takes adapters up to rank {VLLM_RANKS[-1]}, {adapter} has {rank}",
            hint="merge it into the model first, or use --engine transformers",
        )
    return room
