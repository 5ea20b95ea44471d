"""Requests to token ids, token ids to completions: the same for all engines in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mmcb.errors import MmcbError
from mmcb.generation.images import image_size
from mmcb.generation.protocol import Completion, Request
from mmcb.log import get_logger
from mmcb.models.chat import ChatModel, Encoded, encode, encode_for_verdict, encode_text
from mmcb.models.slots import encode_slotted

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A request ready to run."""

    request: Request
    encoded: Encoded
    """The prompt, image tokens expanded; padding where vectors are to stand."""
    slot_start: int = 0
    """Index of the first vector, where the request brings any."""
    vectors: Float[Tensor, "N D"] | None = None


def encode_requests(
    model: ChatModel, requests: Sequence[Request], *, max_length: int | None
) -> tuple[list[Job], list[Completion]]:
    """Jobs, and the completions of the requests that cannot be run (said in the log).

    Args:
        model: whose template and tokenizer count.
        requests: what to answer.
        max_length: tokens that the model reads; a prompt must be shorter.

    Raises:
        MmcbError: images for a model that takes none.
    """
    if not model.is_vlm and any(request.image for request in requests):
        raise MmcbError(
            f"{model.name} takes no images",
            hint="use a vision-language model, such as tiny-llava-next",
        )
    jobs: list[Job] = []
    failed: list[Completion] = []
    for request in requests:
        try:
            jobs.append(_job(model, request, max_length))
        except MmcbError as error:
            failed.append(failure(request, error))
    return jobs, failed


def require_words(requests: Sequence[Request], *, engine: str) -> None:
    """An engine that reads words alone takes neither vectors nor changed activations.

    Raises:
        MmcbError: a request brings one.
    """
    for request in requests:
        if request.embeddings is not None or request.steering is not None:
            what = "input embeddings" if request.embeddings is not None else "steering"
            raise MmcbError(
                f"the {engine} engine cannot put {what} to a model (request {request.id})",
                hint="use --engine transformers, or leave that attack's folder out",
            )


def _job(model: ChatModel, request: Request, max_length: int | None) -> Job:
    if request.embeddings is None:
        encoded = _encode(model, request)
        job = Job(request, encoded)
    else:
        size = None if request.image is None else image_size(request.image)
        vectors = read_tensor(request.embeddings, "embeddings")
        around = encode_slotted(model, request.messages, image_size=size, prefill=request.prefill)
        begin = len(around.before)
        head = [*around.before, *[int(model.tokenizer.pad_token_id)] * len(vectors), *around.after]
        encoded = Encoded([*head, *around.target], len(head), around.after_image_start)
        job = Job(request, encoded, begin, vectors)
    if max_length is not None and len(encoded.input_ids) >= max_length:
        raise MmcbError(
            f"a prompt of {len(encoded.input_ids)} tokens; {model.name} reads {max_length}",
            hint="shorten it",
        )
    return job


def _encode(model: ChatModel, request: Request) -> Encoded:
    if request.layout == "plain":
        return encode_text(model, request.messages[-1].content)
    if request.layout == "verdict":
        return encode_for_verdict(model, request.messages)
    size = None if request.image is None else image_size(request.image)
    return encode(model, request.messages, image_size=size, prefill=request.prefill)


def read_tensor(path: Path, name: str) -> Tensor:
    """One tensor of a safetensors file.

    Raises:
        MmcbError: there is no such file, or it does not hold the tensor.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor
    except (OSError, SafetensorError) as error:
        raise MmcbError(
            f"{path}: no tensor {name!r} can be read: {error}", hint="make the attack again"
        ) from error


def completion_of(
    model: ChatModel, job: Job, new_ids: Sequence[int], *, end_ids: Collection[int]
) -> Completion:
    """The completion that `new_ids` are, up to the first of `end_ids`."""
    stop = next((at for at, token in enumerate(new_ids) if token in end_ids), None)
    kept = list(new_ids if stop is None else new_ids[:stop])
    return Completion(
        id=job.request.id,
        text=_text(model.tokenizer, job, kept),
        finish_reason="length" if stop is None else "stop",
        num_tokens=len(kept),
    )


def end_ids(tokenizer: Any, generation_config: Any) -> list[int]:
    """The tokens that end an answer: the tokenizer's, and those of the checkpoint's settings."""
    own: Any = getattr(generation_config, "eos_token_id", None)
    ids = set(own) if isinstance(own, list) else {own}
    return sorted(int(i) for i in ids | {tokenizer.eos_token_id} if i is not None)


def failure(request: Request, error: Exception) -> Completion:
    """The completion of a request that was not run; the reason goes to the log."""
    _log.warning("request %s was not run: %s", request.id, error)
    return Completion(id=request.id, text="", finish_reason="error", num_tokens=0)


def request_seed(seed: int, request_id: str, *, bits: int = 63) -> int:
    """A seed for one request, so that its text does not depend on what else is asked."""
    digest = hashlib.sha256(f"{seed}:{request_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits)


def _text(tokenizer: Any, job: Job, new_ids: list[int]) -> str:
    """The new words. Decoded together with the prefill, whose last word they may go on."""
    begun = job.encoded.input_ids[job.encoded.completion_start :]
    if not begun:
        # The space between the template's header and the answer is the template's.
        return _decode(tokenizer, new_ids).lstrip()
    before, whole = _decode(tokenizer, begun), _decode(tokenizer, begun + new_ids)
    return whole[len(before) :] if whole.startswith(before) else _decode(tokenizer, new_ids)


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text)
