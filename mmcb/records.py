"""The nouns of the pipeline: one JSON object a line, frozen, versioned, with where they came from.

Image paths are POSIX paths relative to the folder of the JSONL file they stand in. The order of the
fields is the file format: a change of either bumps `version`; a new field with a default does not.
"""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

Split = Literal["train", "heldout"]
Scalar = str | int | float | bool


def _relative(image: str) -> str:
    if PurePosixPath(image).is_absolute():
        raise ValueError(f"{image!r} must be relative to the folder of the JSONL file")
    return image


ImagePath = Annotated[str, AfterValidator(_relative)]
"""A POSIX path relative to the folder of the JSONL file that holds it."""


class Part(BaseModel):
    """Base of everything that stands in a line: never changed, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Record(Part):
    """Base of every line: what it is called, and in which version of the format it is written."""

    version: Literal[1] = 1
    id: str
    """Names the record for good: a hash of what it was made from (`store.record_id`)."""


class Provenance(Part):
    """Who made a text, and from what."""

    generator: str
    """The model's name, or the data set's for human text."""
    revision: str | None = None
    """The checkpoint's commit or content hash."""
    template: str | None = None
    """The prompt template's file name."""
    template_hash: str | None = None
    seed: int | None = None
    source_id: str | None = None
    """The record this one was made from."""
    settings: dict[str, Scalar] = {}
    """What else it depends on: temperature, attempts, quantisation."""


class Message(Part):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Caption(Record):
    """What is seen in an image, in words."""

    image: ImagePath
    image_id: int | None = None
    """COCO's image id, where it has one."""
    text: str
    categories: tuple[str, ...] = ()
    """COCO's category names of the annotated objects."""
    license: int | None = None
    """COCO's licence number of the image."""
    provenance: Provenance


class Example(Record):
    """A training conversation, of the circuit-breaker set or of the retain set."""

    kind: Literal["circuit_breaker", "retain"]
    task: Literal["harmful", "benign_howto", "caption", "question", "instruction", "refusal"]
    category: str | None = None
    """The harm category; None for what is harmless."""
    split: Split
    image: ImagePath | None = None
    messages: tuple[Message, ...]
    """The conversation; the last message is the assistant's, and is what the loss sees."""
    provenance: Provenance

    @model_validator(mode="after")
    def _ends_with_a_response(self) -> "Example":
        if len(self.messages) < 2 or self.messages[-1].role != "assistant":
            raise ValueError("messages must hold a prompt and end with the assistant's response")
        return self

    @property
    def prompt_messages(self) -> tuple[Message, ...]:
        """Everything before the response."""
        return self.messages[:-1]

    @property
    def response(self) -> str:
        """The assistant's last message."""
        return self.messages[-1].content


class Behavior(Record):
    """Something a model must not do, and the answer an attack wants."""

    prompt: str
    target: str
    """The start of the answer that the attack optimises for."""
    category: str
    split: Split
    """Whether the category appears in any training record (train) or in none (heldout)."""
    image: ImagePath | None = None
    context: str | None = None
    """Text that the prompt refers to, where the behavior needs any."""


class Task(Record):
    """A harmless item that measures what a model can do, or what it refuses without need."""

    task: Literal["caption", "vqa", "fact", "benign_howto", "over_refusal"]
    """over_refusal: a benign prompt that looks harmful."""
    prompt: str
    references: tuple[str, ...] = ()
    image: ImagePath | None = None
    choices: tuple[str, ...] = ()
    """The lines `A. text`, `B. text`... of a multiple choice; the reference is the right one."""


AttackName = Literal[
    "direct",
    "trigger",
    "prefill",
    "image_hijack",
    "task",
    "embedding",
    "gcg",
    "multi_turn",
    "translated",
    "static",
    "steering",
]


class Attempt(Record):
    """A prompt as an attack left it, ready to be put to a model."""

    behavior_id: str
    """The behavior's id; the task's for the attack named `task`."""
    attack: AttackName
    model: str
    """Which model it was made against: `base` or `defended`."""
    split: Split
    category: str
    prompt: str
    prefill: str = ""
    """The start of the answer, put in the model's mouth."""
    image: ImagePath | None = None
    measures: dict[str, float] = {}
    """What the attack measured: losses, steps, the distance from the clean image."""
    settings: dict[str, Scalar] = {}
    history: tuple[Message, ...] = ()
    """The conversation before the prompt; it begins with the user."""
    embeddings: ImagePath | None = None
    """A safetensors file with `embeddings` (N, D): vectors read behind the prompt's last word."""
    steering: ImagePath | None = None
    """A safetensors file with `direction` (D,): removed from the residual stream at every token."""


class Generation(Record):
    """What a model answered to an attempt."""

    attempt_id: str
    model: str
    text: str
    """The answer without the prefill."""
    finish_reason: str
    num_tokens: int
    provenance: Provenance


class Verdict(Record):
    """What a judge says of a generation."""

    generation_id: str
    judge: str
    label: bool | None
    """Whether the answer does the harm (for tasks: is right); None if the judge cannot be read."""
    score: float | None = None
    reason: str = ""
