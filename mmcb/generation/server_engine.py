"""Text from any OpenAI-compatible server, through the `openai` client.

The client retries what may pass (429, 408, 409, 5xx, cut connections) with exponential back-off, or
as long as the server's `Retry-After` says. What is still wrong then ends the run with a sentence,
as does silence: a server that is down must not turn thousands of requests into failures. Answers
are streamed, so that one that takes long is not taken for silence. A request that the server
refuses (400, 413, 422: too long, no image taken...) is answered with `finish_reason="error"`, and
the others go on.

What cannot be the same as in this process: the server's own chat template, tokenizer and precision
count, sampled text differs for one seed, and a server other than vLLM may have defaults of its
own for settings that OpenAI's API lacks (top-k...) and cannot go on from a prefill.
"""

from __future__ import annotations

import asyncio
import base64
import io
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmcb.errors import MmcbError
from mmcb.generation.client import Client, SilentServerError, import_openai
from mmcb.generation.config import EngineConfig
from mmcb.generation.endpoints import Endpoint, explain
from mmcb.generation.images import open_image
from mmcb.generation.in_flight import BackgroundLoop
from mmcb.generation.protocol import Completion, FinishReason, Request, Sampling
from mmcb.generation.tokens import failure, request_seed, require_words

_SEED_BITS = 31
"""Servers take seeds of 32 bits at least."""

_REFUSED = (400, 413, 422)
"""The request is at fault, not the server."""

# The server's tokenizer is not here to be asked, so these are the usual ones.
_SPECIAL_TOKEN = re.compile(r"<(?=(?:/?s|unk|pad|bos|eos|image|\|[^<>|]*\|)>)")


class _Said(NamedTuple):
    """A streamed answer, put together."""

    text: str
    finish_reason: str
    num_tokens: int


class ServerGenerator:
    """A `TextGenerator` over one model of a server."""

    revision: str | None = None
    """A server does not tell which weights it has."""

    def __init__(self, model: str, endpoint: Endpoint, config: EngineConfig) -> None:
        self.name = model
        self._endpoint = endpoint
        self._config = config
        self._client = Client(config, endpoint.url)
        self._loop = BackgroundLoop()
        weakref.finalize(self, self._loop.close)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        """Answer every request exactly once, as the answers come; `sampling.batch_size` is unused.

        Raises:
            MmcbError: the server cannot go on from a prefill, or fails for good. What it answered
                before was given out.
        """
        require_words(requests, engine="server")
        if not self._endpoint.is_vllm and any(request.prefill for request in requests):
            raise MmcbError(
                f"server {self._endpoint.url} cannot go on from a prefill: OpenAI's API has no "
                "such setting, only vLLM's has",
                hint="serve the model with `vllm serve`, or leave the prefill attack out",
            )
        return self._loop.answers(
            lambda request: self._answer(request, sampling),
            requests,
            limit=self._config.concurrency,
        )

    async def _answer(self, request: Request, sampling: Sampling) -> Completion:
        openai = import_openai()
        try:
            # In a thread: to encode an image takes long enough to hold up the others.
            messages = await asyncio.to_thread(chat_messages, request)
        except MmcbError as error:
            return failure(request, error)
        settings = self._settings(request, messages, sampling)
        try:
            said = await self._client.wait_for(self._said(request, settings))
        except openai.APIStatusError as error:
            if error.status_code in _REFUSED:
                return failure(request, error)
            raise explain(error, url=self._endpoint.url, config=self._config) from None
        except (openai.OpenAIError, SilentServerError, ValueError) as error:
            raise explain(error, url=self._endpoint.url, config=self._config) from None
        return self._completion(request, said)

    def _settings(
        self, request: Request, messages: Sequence[Mapping[str, Any]], sampling: Sampling
    ) -> dict[str, Any]:
        """What the API is asked for."""
        settings: dict[str, Any] = {
            "model": self._endpoint.model,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request_seed(sampling.seed, request.id, bits=_SEED_BITS),
            "extra_body": self._extra(request),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.layout == "plain":
            return settings | {"prompt": messages[-1]["content"]}
        if request.json_schema is not None:
            settings["response_format"] = _response_format(request.json_schema)
        return settings | {"messages": messages}

    async def _said(self, request: Request, settings: Mapping[str, Any]) -> _Said:
        """One answer, asked for again when the connection is cut in the middle of it."""
        api, cuts = self._client.api, 0
        plain = request.layout == "plain"
        create = api.completions.create if plain else api.chat.completions.create
        while True:
            stream = await create(**settings)
            try:
                return await self._read(stream)
            except import_openai().APIConnectionError:
                # The client's own retries end where an answer begins.
                if cuts == self._config.server_retries:
                    raise
                cuts += 1

    async def _read(self, stream: Any) -> _Said:
        kind = stream.response.headers.get("content-type", "no type")
        if "event-stream" not in kind:
            await stream.close()
            raise ValueError(f"it came as {kind}, not as a stream of events")
        text, reason, usage = "", None, None
        async for chunk in stream:
            self._client.hear()
            usage = getattr(chunk, "usage", None) or usage
            for choice in getattr(chunk, "choices", None) or ():
                delta = getattr(choice, "delta", None)
                piece = getattr(choice, "text", None) if delta is None else delta.content
                text += piece or ""
                reason = choice.finish_reason or reason
        if reason is None:
            raise import_openai().APIConnectionError(
                message="the stream ended before the answer did", request=stream.response.request
            )
        return _Said(text, reason, 0 if usage is None else int(usage.completion_tokens))

    def _extra(self, request: Request) -> dict[str, Any] | None:
        """What vLLM must be told, or it takes the checkpoint's own defaults."""
        if not self._endpoint.is_vllm:
            return None
        extra: dict[str, Any] = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        if self._endpoint.adds_start:
            extra["add_special_tokens"] = True
        if request.prefill:
            extra |= {"add_generation_prompt": False, "continue_final_message": True}
        return extra

    def _completion(self, request: Request, said: _Said) -> Completion:
        reason: FinishReason
        match said.finish_reason:
            case "stop" | "length" as known:
                reason = known
            case other:
                return failure(request, MmcbError(f"the server ended it as {other!r}"))
        tokens = said.num_tokens
        if self._endpoint.is_vllm and reason == "stop":
            tokens -= 1  # vLLM counts the end-of-sequence token
        return Completion(
            id=request.id,
            text=said.text if request.prefill else said.text.lstrip(),
            finish_reason=reason,
            num_tokens=max(0, tokens),
        )


def chat_messages(request: Request) -> list[dict[str, Any]]:
    """A request as the API's messages; the image goes into the first user message.

    Raises:
        ImageProblem: the image cannot be read.
    """
    messages: list[dict[str, Any]] = []
    pending = request.image
    for message in request.messages:
        content: Any = _neutralize(message.content)
        if pending is not None and message.role == "user":
            picture = {"type": "image_url", "image_url": {"url": data_url(pending)}}
            content = [picture, {"type": "text", "text": content}]
            pending = None
        messages.append({"role": message.role, "content": content})
    if request.prefill:
        messages.append({"role": "assistant", "content": _neutralize(request.prefill)})
    return messages


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema that the answer follows, as OpenAI's API has it."""
    named = {"name": "answer", "schema": dict(schema), "strict": True}
    return {"type": "json_schema", "json_schema": named}


def data_url(path: Path) -> str:
    """The image as every engine sees it (upright, 8-bit RGB) in a data URL, without loss.

    Raises:
        ImageProblem: it cannot be read.
    """
    buffer = io.BytesIO()
    open_image(path).save(buffer, "png", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _neutralize(text: str) -> str:
    """`text` with special tokens broken by a space, so that data does not act as control."""
    return _SPECIAL_TOKEN.sub("< ", text)
