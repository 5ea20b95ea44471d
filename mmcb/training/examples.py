"""Reading the circuit-breaker set and the retain set, and encoding them for one model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mmcb.errors import MmcbError
from mmcb.generation.images import ImageProblem, open_image
from mmcb.log import get_logger, progress
from mmcb.models.chat import Encoded, encode
from mmcb.models.loading import LoadedModel
from mmcb.models.recipe_defaults import Mask
from mmcb.records import Example
from mmcb.store import resolve_image

DATA_ROOT = Path("data/synthesis")
FILES = ("circuit_breaker.jsonl", "retain.jsonl")
MAKE_DATA = (
    "python -m mmcb.miniature && python -m mmcb.synthesis --coco-root data/miniature "
    "--model tiny-llava-next --writer tiny-mistral"
)

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example as token ids.

    Attributes:
        id: id of the record.
        kind: the set it belongs to.
        input_ids: token ids of the whole conversation, image tokens expanded.
        mask_start: first token that the loss counts; all after it count too.
        image: file of its image, if it has one.
        answer_start: first token of the answer.
        image_end: first token after the image; 0 without one.
        task: what the record is an example of.
    """

    id: str
    kind: Literal["circuit_breaker", "retain"]
    input_ids: tuple[int, ...]
    mask_start: int
    image: Path | None
    answer_start: int = 0
    image_end: int = 0
    task: str = ""


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """Encoded examples of one split.

    Attributes:
        examples: what there is to learn from.
        left_out: how many records were left out, by reason.
        truncated: how many examples lost their end to `max_length`, by kind.
    """

    examples: list[EncodedExample]
    left_out: dict[str, int]
    truncated: dict[str, int] = field(default_factory=dict)

    def of_kind(self, kind: str) -> list[EncodedExample]:
        """The examples of one set."""
        return [example for example in self.examples if example.kind == kind]


def find_data(data: Path | None, *, root: Path = DATA_ROOT, names: Sequence[str] = FILES) -> Path:
    """Folder with both sets, or with the one that is asked for: the given one, or the newest.

    Args:
        data: the folder, or None for the newest under `root`.
        root: where synthesis puts its folders.
        names: the files it must hold.

    Raises:
        MmcbError: there is none, or one of the files is missing.
    """
    if data is None:
        folders = [path.parent for path in root.glob(f"*/{names[0]}")]
        complete = [folder for folder in folders if all((folder / f).is_file() for f in names)]
        if not complete:
            raise MmcbError(f"no training data under {root}", hint=MAKE_DATA)
        return max(complete, key=lambda folder: (folder / names[0]).stat().st_mtime)
    for name in names:
        if not (data / name).is_file():
            raise MmcbError(f"no training data: {data / name} does not exist", hint=MAKE_DATA)
    return data


def encode_examples(
    pairs: Sequence[tuple[Path, Example]],
    loaded: LoadedModel,
    *,
    split: str,
    masks: dict[str, Mask],
    max_length: int,
    limit: int | None = None,
) -> ExampleSet:
    """Encode the examples of a split; what this model cannot take is left out, counted and told.

    Args:
        pairs: examples, each with the file that its image path is relative to.
        loaded: the model to encode for. One without a vision tower takes no example with an image.
        split: "train" or "heldout".
        masks: for each kind, the tokens that its loss counts.
        max_length: text tokens to keep of an example; image tokens are not counted.
        limit: at most this many examples of each kind, spread over the file.
    """
    wanted = [(path, example) for path, example in pairs if example.split == split]
    usable = [(path, e) for path, e in wanted if loaded.is_vlm or e.image is None]
    left_out = Counter({"image, and the model takes none": len(wanted) - len(usable)})
    usable = usable if limit is None else _spread(usable, limit)
    sizes: dict[Path, tuple[int, int] | ImageProblem] = {}
    encoded: list[EncodedExample] = []
    truncated: Counter[str] = Counter()
    with progress(len(usable), f"encoding {split} examples") as bar:
        for path, example in usable:
            image = None if example.image is None else resolve_image(path, example.image)
            size = None if image is None else _image_size(image, sizes)
            if isinstance(size, ImageProblem):
                left_out["image that cannot be read"] += 1
            else:
                tokens = encode(loaded, example.messages, image_size=size)
                start = _mask_start(tokens, masks[example.kind], loaded)
                # Never a cut through the image: its tokens and its features must be equally many.
                ids = tuple(tokens.input_ids[: tokens.after_image_start + max_length])
                if len(ids) <= start:
                    left_out[f"nothing to learn from in its first {max_length} tokens"] += 1
                else:
                    truncated[example.kind] += len(ids) < len(tokens.input_ids)
                    rest = tokens.completion_start, tokens.after_image_start, example.task
                    encoded.append(
                        EncodedExample(example.id, example.kind, ids, start, image, *rest)
                    )
            bar.advance()
    _tell(split, encoded, left_out)
    _tell_context(split, encoded, loaded)
    if truncated.total():
        told = f"{truncated['circuit_breaker']} circuit-breaker and {truncated['retain']} retain"
        _log.info("%s: cut %s examples after %d text tokens", split, told, max_length)
    return ExampleSet(encoded, {reason: n for reason, n in left_out.items() if n}, +truncated)


def check_examples(examples: ExampleSet, *, origin: Mapping[str, str], model: str) -> None:
    """Make sure that both sets have something left to train on.

    Args:
        examples: the training split.
        origin: for each kind, what it was read from.
        model: name of the model they were encoded for.

    Raises:
        MmcbError: one of them has not.
    """
    for kind, place in origin.items():
        if not examples.of_kind(kind):
            raise MmcbError(
                f"{place} has no training record that {model} can take"
                f" ({_reasons(examples.left_out)})",
                hint=MAKE_DATA,
            )


def _spread(pairs: Iterable[tuple[Path, Example]], limit: int) -> list[tuple[Path, Example]]:
    """At most `limit` of each kind, at even distances: every task and category has a chance."""
    chosen: list[tuple[Path, Example]] = []
    everything = list(pairs)
    for kind in ("circuit_breaker", "retain"):
        of_kind = [pair for pair in everything if pair[1].kind == kind]
        count = min(limit, len(of_kind))
        chosen += [of_kind[i * len(of_kind) // count] for i in range(count)]
    return chosen


def _image_size(
    path: Path, sizes: dict[Path, tuple[int, int] | ImageProblem]
) -> tuple[int, int] | ImageProblem:
    """(height, width) of an image as the model gets it; opened once, however many show it."""
    if path not in sizes:
        try:
            image = open_image(path)
            sizes[path] = (image.height, image.width)
        except ImageProblem as problem:
            _log.warning("left out: %s", problem)
            sizes[path] = problem
    return sizes[path]


def _mask_start(tokens: Encoded, mask: Mask, loaded: LoadedModel) -> int:
    """First token that counts. Never BOS: retain pins the same vector, an attention sink."""
    first = 1 if tokens.input_ids[:1] == [loaded.tokenizer.bos_token_id] else 0
    if mask == "completion":
        return max(first, tokens.completion_start)
    if mask == "after_image":
        return max(first, tokens.after_image_start)
    return first


def _tell(split: str, encoded: Sequence[EncodedExample], left_out: Counter[str]) -> None:
    counts = Counter(example.kind for example in encoded)
    with_image = sum(example.image is not None for example in encoded)
    _log.info(
        "%s: %d circuit-breaker and %d retain examples, %d with an image",
        split, counts["circuit_breaker"], counts["retain"], with_image,
    )  # fmt: skip
    if any(left_out.values()):
        _log.info("%s: left out %s", split, _reasons(left_out))


def _tell_context(split: str, encoded: Sequence[EncodedExample], loaded: LoadedModel) -> None:
    context = getattr(loaded.decoder.config, "max_position_embeddings", None)
    longer = sum(len(example.input_ids) > context for example in encoded) if context else 0
    if longer:
        _log.warning(
            "%s: %d examples are longer than the %d tokens of %s's context: lower --max-length",
            split, longer, context, loaded.name,
        )  # fmt: skip


def _reasons(left_out: dict[str, int] | Counter[str]) -> str:
    told = [f"{count} ({reason})" for reason, count in left_out.items() if count]
    return ", ".join(told) or "0 left out"
