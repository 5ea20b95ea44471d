"""What a text generator takes and gives. No torch: configs embed `Sampling`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from mmcb.config import Config
from mmcb.records import Message

FinishReason = Literal["stop", "length", "error"]
Layout = Literal["chat", "verdict", "plain"]


@dataclass(frozen=True, slots=True)
class Request:
    """One text to write."""

    id: str
    """Unique within a call; also seeds this request's sampling."""
    messages: tuple[Message, ...]
    """The conversation so far; the last message is the user's."""
    image: Path | None = None
    """An image file shown before the first user message's text."""
    prefill: str = ""
    """Words put into the assistant's mouth, which it continues."""
    layout: Layout = "chat"
    """What the model reads. `chat`: the conversation, to be answered. `verdict`: a conversation
    with its answer, which the model's own template puts up for judgement (Llama Guard). `plain`:
    the one message's text as it stands, without a template, for classifiers trained so. The last
    two take neither image nor prefill."""
    embeddings: Path | None = None
    """A safetensors file with `embeddings` (N, D), read behind the last message's last word. Only
    the transformers engine can."""
    steering: Path | None = None
    """A safetensors file with `direction` (D,), removed from the residual stream at every token
    behind every block. Only the transformers engine can."""
    json_schema: Mapping[str, Any] | None = None
    """A JSON schema that the text should follow. An engine that can decode by a schema does; one
    that cannot leaves it alone, so whoever asks must still read the text with tolerance."""


class Sampling(Config):
    """How text is drawn. The defaults are greedy, so they give the same text every time."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Stop after this many tokens."""
    temperature: float = Field(default=0.0, ge=0.0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus sampling: keep the likeliest tokens whose probabilities add up to this."""
    seed: int = 0
    """With the request's id, fixes its text whatever else is in the batch."""
    batch_size: int = Field(default=32, ge=1)
    """Requests run at once; halved by itself when memory runs out."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back for one request."""

    id: str
    """The request's id."""
    text: str
    """The words the model added; the prefill is not repeated."""
    finish_reason: FinishReason
    """`stop`: the model ended; `length`: cut at `max_new_tokens`; `error`: nothing was written."""
    num_tokens: int
    """Tokens generated, without the end-of-sequence token."""


class TextGenerator(Protocol):
    """Anything that answers requests: a model in this process or behind a server."""

    name: str
    """The model's name, for records."""
    revision: str | None
    """Commit or content hash of the weights, for provenance."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        """Answer every request exactly once, a list per finished batch, in any order."""
        ...
