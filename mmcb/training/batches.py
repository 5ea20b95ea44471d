"""From records to batches: encoding, masks, a sampler that is a pure function of the step.

Shapes: B examples, T tokens, N marked tokens, I images, V views of an image.
"""

from __future__ import annotations

import dataclasses
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmcb.errors import MmcbError
from mmcb.generation.images import open_image
from mmcb.log import get_logger
from mmcb.models.loading import LoadedModel
from mmcb.training.examples import EncodedExample

_log = get_logger(__name__)

Made = TypeVar("Made")

BUCKET_BATCHES = 8
"""Examples are sorted by length inside windows of this many steps: little padding, and still a
different company in each epoch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Circuit-breaker and retain examples side by side, padded on the right.

    Attributes:
        input_ids: (B, T) token ids.
        attention_mask: (B, T), 1 for real tokens.
        rerouted: (N,) places in the flattened (B * T) of the tokens that the reroute loss counts,
            all in circuit-breaker rows.
        retained: (N,) the same of the retain loss, all in retain rows.
        pixel_values: (I, V, 3, h, w) of the rows that have an image, in their order; or None.
        image_sizes: (I, 2) height and width of these images, always on the CPU; or None.
        ids: record ids of the rows.
    """

    input_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"]
    rerouted: Int[Tensor, " N"]
    retained: Int[Tensor, " N"]
    pixel_values: Float[Tensor, "I V 3 h w"] | None
    image_sizes: Int[Tensor, "I 2"] | None
    ids: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in memory that a GPU copies from while the host goes on."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> Batch:
        # Image sizes stay: the model's own code reads them as numbers.
        return dataclasses.replace(
            self,
            input_ids=move(self.input_ids),
            attention_mask=move(self.attention_mask),
            rerouted=move(self.rerouted),
            retained=move(self.retained),
            pixel_values=None if self.pixel_values is None else move(self.pixel_values),
        )

    def model_inputs(self) -> dict[str, Tensor]:
        """The tensors that a model's forward takes, by its names."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        if self.pixel_values is not None and self.image_sizes is not None:
            inputs |= {"pixel_values": self.pixel_values, "image_sizes": self.image_sizes}
        return inputs


class PixelCache:
    """Images through the model's stock processor, the latest kept in memory."""

    def __init__(self, loaded: LoadedModel, *, max_bytes: int = 512 * 2**20) -> None:
        """Keep at most `max_bytes` of processed images of the model's processor."""
        self._processor = loaded.processor
        self.max_bytes = max_bytes if hasattr(loaded.processor, "image_processor") else 0
        self._bytes = 0
        self._kept: OrderedDict[Path, tuple[Tensor, Tensor]] = OrderedDict()

    def __call__(self, path: Path) -> tuple[Float[Tensor, "V 3 h w"], Int[Tensor, 2]]:
        """Pixel values and (height, width) of one image.

        Raises:
            ImageProblem: the file cannot be read as an image.
        """
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        image = open_image(path)
        features = self._processor.image_processor(images=image, return_tensors="pt")
        # A processor with one view of a fixed size does not say what size the picture had.
        sizes = features.get("image_sizes", [(image.height, image.width)])
        entry = (features["pixel_values"][0], torch.as_tensor(sizes[0]))
        self._kept[path] = entry
        self._bytes += entry[0].nbytes
        while self._bytes > self.max_bytes and len(self._kept) > 1:
            _, (dropped, _) = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
        return entry


def collate(examples: Sequence[EncodedExample], *, pixels: PixelCache, pad_id: int) -> Batch:
    """Pad encoded examples on the right and gather their images.

    Args:
        examples: circuit-breaker and retain examples, in any order.
        pixels: where images come from.
        pad_id: token id to pad with; nothing is marked there.
    """
    shape = (len(examples), max(len(example.input_ids) for example in examples))
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    marked: dict[str, list[Tensor]] = {"circuit_breaker": [], "retain": []}
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids[row, :length] = torch.tensor(example.input_ids)
        attention_mask[row, :length] = 1
        first = row * shape[1]
        marked[example.kind].append(torch.arange(first + example.mask_start, first + length))
    pixel_values, image_sizes = stack_images(examples, pixels)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        rerouted=_joined(marked["circuit_breaker"]),
        retained=_joined(marked["retain"]),
        pixel_values=pixel_values,
        image_sizes=image_sizes,
        ids=tuple(example.id for example in examples),
    )


def _joined(places: Sequence[Int[Tensor, " N"]]) -> Int[Tensor, " N"]:
    return torch.cat([torch.arange(0), *places])


def stack_images(
    examples: Sequence[EncodedExample], pixels: PixelCache
) -> tuple[Tensor | None, Tensor | None]:
    """Pixel values and sizes of the examples' images, in their order; None where none has one.

    Images of fewer views get views of zeros, as the stock processor pads.
    """
    entries = [pixels(example.image) for example in examples if example.image is not None]
    if not entries:
        return None, None
    most = max(views.shape[0] for views, _ in entries)
    stacked = entries[0][0].new_zeros((len(entries), most, *entries[0][0].shape[1:]))
    for row, (views, _) in enumerate(entries):
        stacked[row, : views.shape[0]] = views
    return stacked, torch.stack([size for _, size in entries])


class Sampler:
    """Which examples make up which step: a pure function of (seed, step).

    Nothing is remembered between calls, so that a resumed run sees what the killed one would have.
    A step's examples are drawn first and split afterwards: they depend on how many a step has, not
    on how these are shared out among batches. Processes have no say in it.
    Circuit-breaker and retain examples are drawn together. Where there are examples with an image
    and without, batches of the two alternate step by step; a kind that has only one of them
    contributes that.
    """

    def __init__(
        self,
        examples: Sequence[EncodedExample],
        *,
        batch_sizes: tuple[int, int],
        seed: int,
        alternate: bool,
        accumulation: int = 1,
    ) -> None:
        """Sort the examples into pools.

        Args:
            examples: everything to train on, of both kinds.
            batch_sizes: circuit-breaker and retain examples in a batch.
            seed: seed of the order.
            alternate: whether batches with images and without alternate.
            accumulation: batches in one optimiser step.

        Raises:
            MmcbError: there are fewer examples than batches in a step.
        """
        self.parts = accumulation
        with_image = {example.image is not None for example in examples}
        self._rounds = len(with_image) if alternate else 1
        self._pools: list[tuple[_Pool, _Pool]] = []
        for wanted in sorted(with_image, reverse=True) if self._rounds > 1 else [None]:
            pools = []
            for kind, size in zip(("circuit_breaker", "retain"), batch_sizes, strict=True):
                of_kind = [example for example in examples if example.kind == kind]
                fitting = [e for e in of_kind if wanted is None or (e.image is not None) == wanted]
                total = size * self.parts
                pools.append(_Pool(fitting or of_kind, size=total, seed=f"{seed}/{kind}/{wanted}"))
                if pools[-1].size < total:
                    which = {None: "", True: " with an image", False: " without one"}[wanted]
                    _log.warning(
                        "%d %s examples%s: a step has no more, instead of %d",
                        pools[-1].size, kind.replace("_", "-"), which, total,
                    )  # fmt: skip
            if max(pool.size for pool in pools) < self.parts:
                raise MmcbError(
                    f"{self.parts} batches a step, and at most {max(p.size for p in pools)}"
                    " examples of a kind to share out among them",
                    hint="lower --accumulation",
                )
            self._pools.append((pools[0], pools[1]))

    def step(self, step: int) -> list[EncodedExample]:
        """All examples of an optimiser step."""
        return [example for batch in self.batches(step) for example in batch]

    def batches(self, step: int) -> list[list[EncodedExample]]:
        """The batches of an optimiser step, counted from 1."""
        turn, kind = divmod(step - 1, self._rounds)
        batches: list[list[EncodedExample]] = [[] for _ in range(self.parts)]
        for pool in self._pools[kind]:
            of_step = pool.batch(turn)  # sorted by length, so that neighbours need little padding
            for part, batch in enumerate(batches):
                start, stop = (len(of_step) * p // self.parts for p in (part, part + 1))
                batch += of_step[start:stop]
        return batches


class _Pool:
    """Endless shuffled batches of one kind of example, epoch after epoch, addressed by index."""

    def __init__(self, examples: Sequence[EncodedExample], *, size: int, seed: str) -> None:
        self._examples = examples
        self.size = min(size, len(examples))
        self._seed = seed
        self._per_epoch = len(examples) // self.size if examples else 0
        self._order = lru_cache(maxsize=2)(self._epoch_order)

    def batch(self, index: int) -> list[EncodedExample]:
        if not self._per_epoch:
            return []
        epoch, position = divmod(index, self._per_epoch)
        return [self._examples[i] for i in self._order(epoch)[position]]

    def _epoch_order(self, epoch: int) -> list[list[int]]:
        """Shuffle, sort by length inside windows, cut into batches, shuffle the batches."""
        generator = random.Random(f"{self._seed}/{epoch}")
        order = list(range(len(self._examples)))
        generator.shuffle(order)
        del order[self._per_epoch * self.size :]  # the rest has its turn in another epoch
        window = self.size * BUCKET_BATCHES
        batches = []
        for start in range(0, len(order), window):
            nearby = sorted(
                order[start : start + window], key=lambda i: len(self._examples[i].input_ids)
            )
            batches += [nearby[i : i + self.size] for i in range(0, len(nearby), self.size)]
        generator.shuffle(batches)
        return batches


def prefetched(make: Callable[[int], Made], steps: Sequence[int]) -> Iterator[Made]:
    """Make batches one step ahead of their use, in a thread: images decode while others compute.

    Args:
        make: makes what a step needs.
        steps: the steps wanted, in order.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: Future[Made] | None = None
        for position, step in enumerate(steps):
            current = ahead if ahead is not None else pool.submit(make, step)
            following = position + 1
            ahead = pool.submit(make, steps[following]) if following < len(steps) else None
            yield current.result()
