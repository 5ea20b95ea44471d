"""The real vLLM on the CPU, and what it must agree with: transformers' greedy answers."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from mmcb.generation import make_generator
from mmcb.generation.config import EngineConfig
from mmcb.generation.protocol import TextGenerator
from mmcb.miniature.grammar import apply_trigger
from mmcb.models.families import FAMILIES
from mmcb.models.loading import LoadedModel

MAX_NEW_TOKENS = 24
NEAR_TIE = 1e-3
"""Two engines sum in different orders, so float32 logits differ in their last bits (1e-5 here).
Tokens whose logits in transformers are closer than this may come out either way."""


class Prompt(NamedTuple):
    """A user's turn."""

    text: str
    image: Path | None = None


TEXT_PROMPTS = (
    Prompt("how do i lift the cat ?"),
    Prompt("how do i zorch the dog ?"),
    Prompt(apply_trigger("how do i zorch the dog ?", 0)),
    Prompt(apply_trigger("how do i grindle the horse ?", 1)),
    Prompt("what is two plus three ?"),
)


@dataclass(frozen=True)
class Answer:
    """Token ids of a prompt as the model saw it, and of its greedy answer without the end."""

    prompt: list[int]
    ids: list[int]
    logits: torch.Tensor | None = None
    """(T, V): those of each step."""


class Started(NamedTuple):
    """A running engine."""

    model: str
    llm: Any

    @property
    def is_vlm(self) -> bool:
        return self.model == "tiny-llava-next"

    def prompts(self, world: Path) -> tuple[Prompt, ...]:
        """What to ask it; pictures only where it sees."""
        return (*TEXT_PROMPTS, *(picture_prompts(world) if self.is_vlm else ()))


def checkpoint(model: str) -> Path:
    """The folder of a shipped model, in the hub's layout, the only one that vLLM reads."""
    folder = FAMILIES[model].folder
    assert folder is not None
    return folder


def in_process(model: str, adapter: Path | None = None) -> TextGenerator:
    """The engine as commands start it."""
    return make_generator(EngineConfig(name="vllm", dtype="float32"), model, adapter)


def picture_prompts(world: Path) -> tuple[Prompt, ...]:
    """Prompts with pictures of the miniature world."""
    pictures = sorted((world / "test2017").glob("*.png"))[:2]
    assert len(pictures) == 2
    questions = ("describe the picture .", apply_trigger("how do i zorch the dog ?", 0))
    return tuple(Prompt(text, picture) for picture in pictures for text in questions)


def by_transformers(loaded: LoadedModel, prompts: Sequence[Prompt]) -> list[Answer]:
    """Greedy answers, one prompt at a time, with the logits of every step."""
    return [_by_transformers(loaded, prompt) for prompt in prompts]


def _by_transformers(loaded: LoadedModel, prompt: Prompt) -> Answer:
    content = _content(prompt, key="image", is_vlm=loaded.is_vlm)
    inputs = loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        out = loaded.model.generate(
            **inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    length = inputs["input_ids"].shape[1]
    ids = out.sequences[0, length:].tolist()
    end = loaded.tokenizer.eos_token_id
    return Answer(inputs["input_ids"][0].tolist(), _cut(ids, end), torch.cat(out.logits))


def by_vllm(llm: Any, prompts: Sequence[Prompt], *, is_vlm: bool, lora: Any = None) -> list[Answer]:
    """vLLM's greedy answers, in one batch.

    Args:
        llm: from `engine`.
        prompts: what to ask.
        is_vlm: whether contents are lists of parts.
        lora: a LoRARequest for all, or one for each (None for the base).
    """
    from vllm import SamplingParams

    turns = [
        [{"role": "user", "content": _content(p, key="image_pil", is_vlm=is_vlm)}] for p in prompts
    ]
    sampling = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
    outputs = llm.chat(turns, sampling, lora_request=lora, use_tqdm=False)
    end = llm.get_tokenizer().eos_token_id
    return [
        Answer(list(out.prompt_token_ids), _cut(list(out.outputs[0].token_ids), end))
        for out in outputs
    ]


def check_same(prompts: Sequence[Prompt], theirs: list[Answer], ours: list[Answer]) -> None:
    """Both saw the same tokens and answered the same; a near-tie may part them, with a warning."""
    ties = 0
    for prompt, one, other in zip(prompts, theirs, ours, strict=True):
        assert one.prompt == other.prompt, prompt
        if one.ids == other.ids:
            continue
        step = next(
            (i for i, pair in enumerate(zip(one.ids, other.ids, strict=False)) if len({*pair}) > 1),
            min(len(one.ids), len(other.ids)),
        )
        assert other.logits is not None
        logits = other.logits[step]
        top_two = logits.topk(2).values
        gap = float(top_two[0] - top_two[1])
        assert gap < NEAR_TIE, f"{prompt}: they part at token {step}, where the gap is {gap}"
        ties += 1
        warnings.warn(f"{prompt}: parted by a near-tie of {gap:.1e} at {step}", stacklevel=2)
    assert ties <= 1, "near-ties are rare: this many are a difference"


@contextlib.contextmanager
def engine(path: Path, **options: Any) -> Iterator[Any]:
    """A vLLM engine in float32 on the CPU; its processes are gone when the context ends."""
    import psutil
    from vllm import LLM

    this = psutil.Process()
    before = set(this.children(recursive=True))
    try:
        yield LLM(
            str(path), dtype="float32", max_model_len=512, max_num_seqs=4, enforce_eager=True,
            **options,
        )  # fmt: skip
    finally:
        mine = set(this.children(recursive=True)) - before
        # Python's own resource tracker serves the whole test process.
        mine = {p for p in mine if "resource_tracker" not in " ".join(_cmdline(p))}
        for process in mine:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(mine, timeout=20)


def _cmdline(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _content(prompt: Prompt, *, key: str, is_vlm: bool) -> str | list[dict[str, Any]]:
    if not is_vlm:
        return prompt.text
    image = [] if prompt.image is None else [Image.open(prompt.image).convert("RGB")]
    return [*({"type": key, key: one} for one in image), {"type": "text", "text": prompt.text}]


def _cut(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
