"""Text from a transformers model in this process.

Every request gets the text it would get alone: images pass the tower one by one, positions count
real tokens only, and sampling noise belongs to the request, not to its row in the batch. Only the
last bits of floating point still depend on the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from mmcb.errors import MmcbError
from mmcb.generation.images import open_image
from mmcb.generation.protocol import Completion, Request, Sampling
from mmcb.generation.tokens import (
    Job,
    completion_of,
    encode_requests,
    end_ids,
    failure,
    read_tensor,
    request_seed,
)
from mmcb.log import get_logger
from mmcb.models.hidden import embed_inputs
from mmcb.models.loading import LoadedModel
from mmcb.models.steering import without_direction

_log = get_logger(__name__)


class TransformersGenerator:
    """A `TextGenerator` over a loaded model; an adapter that is switched on counts."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.name: str = loaded.name
        self.revision: str | None = loaded.revision

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        """Answer every request exactly once, a list per finished batch, longest prompts first.

        A request that cannot be run (bad image, conversation the template refuses, too long) is
        answered with `finish_reason="error"` and logged.

        Raises:
            MmcbError: images for a model that takes none.
        """
        limit = getattr(self.loaded.decoder.config, "max_position_embeddings", None)
        jobs, failed = encode_requests(self.loaded, requests, max_length=limit)
        if failed:
            yield failed
        steered: dict[Path | None, list[Job]] = {}
        for job in jobs:
            steered.setdefault(job.request.steering, []).append(job)
        for direction, group in steered.items():
            yield from self._answer(group, sampling, direction)

    def _answer(
        self, jobs: list[Job], sampling: Sampling, direction: Path | None
    ) -> Iterator[list[Completion]]:
        """Answers of jobs that run on the same activations: the model's own, or steered ones."""
        vector = None if direction is None else read_tensor(direction, "direction")
        # Longest first: if memory does not suffice, that shows at once.
        jobs.sort(key=lambda job: len(job.encoded.input_ids), reverse=True)
        size = sampling.batch_size
        while jobs:
            batch, rest = jobs[:size], jobs[size:]
            try:
                with without_direction(self.loaded, vector):
                    done = self._run(batch, sampling)
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    done = [failure(batch[0].request, error)]
                else:
                    done, size = None, max(1, len(batch) // 2)
            if done is None:
                # Outside the except block, where the failed batch's tensors are no longer held.
                torch.cuda.empty_cache()
                _log.warning("out of memory: going on with batches of %d", size)
                continue
            jobs = rest
            yield done

    def _run(self, jobs: Sequence[Job], sampling: Sampling) -> list[Completion]:
        ready: list[Job] = []
        images: list[dict[str, Tensor]] = []
        completions: list[Completion] = []
        for job in jobs:
            try:
                if job.request.image is not None:
                    images.append(self._pixels(job))
                ready.append(job)
            except MmcbError as error:
                completions.append(failure(job.request, error))
        if ready:
            new_ids = self._generate(ready, images, sampling)
            completions += [
                completion_of(self.loaded, job, ids, end_ids=self._end_ids())
                for job, ids in zip(ready, new_ids.tolist(), strict=True)
            ]
        return completions

    def _pixels(self, job: Job) -> dict[str, Tensor]:
        assert job.request.image is not None
        image = open_image(job.request.image)
        # On the CPU, whatever the model's device: torchvision resizes 8-bit images otherwise on a
        # GPU, up to 20 levels off.
        data = self.loaded.processor.image_processor(images=[image], return_tensors="pt")
        # A processor with one view of a fixed size does not say what size the picture had.
        sizes = data.get("image_sizes", torch.tensor([[image.height, image.width]]))
        return {"pixel_values": data["pixel_values"], "image_sizes": sizes}

    @torch.inference_mode()
    def _generate(
        self, jobs: Sequence[Job], images: Sequence[dict[str, Tensor]], sampling: Sampling
    ) -> Int[Tensor, "B T"]:
        """New token ids, filled up after the end with the padding id."""
        batch = pad_left(
            [job.encoded.input_ids for job in jobs], pad_id=int(self.loaded.tokenizer.pad_token_id)
        )
        if images:
            views = max(image["pixel_values"].shape[1] for image in images)
            batch["pixel_values"] = torch.cat(
                [
                    F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, views - pixels.shape[1]))
                    for pixels in (image["pixel_values"] for image in images)
                ]
            )
            batch["image_sizes"] = torch.cat([image["image_sizes"] for image in images])
        batch = {key: value.to(self.loaded.device) for key, value in batch.items()}
        processors: list[LogitsProcessor] = []
        if sampling.temperature > 0:
            processors.append(SeededNoise([job.request.id for job in jobs], sampling))
        ids = self.loaded.base.generate(
            inputs_embeds=_with_vectors(embed_inputs(self.loaded, batch, one_by_one=True), jobs),
            attention_mask=batch["attention_mask"],
            generation_config=self._settings(sampling),
            logits_processor=LogitsProcessorList(processors),
        )
        assert isinstance(ids, Tensor)
        return ids

    def _settings(self, sampling: Sampling) -> GenerationConfig:
        """Greedy over the (perhaps noisy) scores; the checkpoint's own defaults are overruled."""
        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=self._end_ids(),
            pad_token_id=int(self.loaded.tokenizer.pad_token_id),
            use_cache=True,
        )

    def _end_ids(self) -> list[int]:
        return end_ids(self.loaded.tokenizer, self.loaded.base.generation_config)


class SeededNoise(LogitsProcessor):
    """Makes the greedy choice a sample: Gumbel noise, drawn for each request from its own seed.

    `argmax(log p + gumbel)` is distributed as p (the Gumbel-max trick), so temperature and nucleus
    apply to p and nothing global is seeded.
    """

    def __init__(self, request_ids: Sequence[str], sampling: Sampling) -> None:
        self._sampling = sampling
        self._generators = [
            torch.Generator().manual_seed(request_seed(sampling.seed, name)) for name in request_ids
        ]

    def __call__(
        self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]
    ) -> Float[Tensor, "B V"]:
        """Scores whose argmax is a sample."""
        logits = (scores.float() / self._sampling.temperature).log_softmax(dim=-1)
        if self._sampling.top_p < 1:
            logits = _nucleus(logits, self._sampling.top_p)
        uniform = torch.stack(
            [torch.rand(scores.shape[1], generator=gen) for gen in self._generators]
        )
        tiny = torch.finfo(torch.float32).tiny
        noise = -torch.log(-torch.log(uniform.clamp(tiny, 1 - 1e-7)))
        return logits + noise.to(scores.device)


def pad_left(sequences: Sequence[Sequence[int]], *, pad_id: int) -> dict[str, Int[Tensor, "B T"]]:
    """`input_ids` and `attention_mask` of sequences padded on the left to the longest."""
    length = max(len(sequence) for sequence in sequences)
    ids = [[pad_id] * (length - len(sequence)) + list(sequence) for sequence in sequences]
    mask = [[0] * (length - len(sequence)) + [1] * len(sequence) for sequence in sequences]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def _with_vectors(embedded: Float[Tensor, "B T D"], jobs: Sequence[Job]) -> Float[Tensor, "B T D"]:
    """The jobs' own vectors in their places; rows are padded on the left."""
    for row, job in enumerate(jobs):
        if job.vectors is not None:
            begin = embedded.shape[1] - len(job.encoded.input_ids) + job.slot_start
            embedded[row, begin : begin + len(job.vectors)] = job.vectors.to(embedded)
    return embedded


def _nucleus(logits: Float[Tensor, "B V"], top_p: float) -> Float[Tensor, "B V"]:
    ordered, order = logits.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(dim=-1) - ordered.exp()
    ordered = ordered.masked_fill(before >= top_p, float("-inf"))
    return torch.empty_like(logits).scatter(-1, order, ordered)
