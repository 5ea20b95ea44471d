"""Where two engines wrote different greedy texts: how near a tie was it?"""

from __future__ import annotations

from typing import NamedTuple

import torch

from mmcb.generation.images import image_size, open_image
from mmcb.generation.protocol import Request
from mmcb.models.chat import encode
from mmcb.models.hidden import embed_inputs
from mmcb.models.loading import LoadedModel
from mmcb.records import Message


class Difference(NamedTuple):
    """Two texts for one request, and the model's own view of the first token they differ in."""

    id: str
    ours: str
    theirs: str
    gap: float
    """Logit of the one token less that of the other; about 1e-5 is float32's last bits."""


@torch.inference_mode()
def difference(loaded: LoadedModel, request: Request, *, ours: str, theirs: str) -> Difference:
    """The gap between the two tokens where `ours` and `theirs` part, in `loaded`'s logits."""
    size = None if request.image is None else image_size(request.image)
    first, second = (
        encode(
            loaded,
            [*request.messages, Message(role="assistant", content=request.prefill + text)],
            image_size=size,
        ).input_ids
        for text in (ours, theirs)
    )
    at = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    batch = {"input_ids": torch.tensor([first[:at]])}
    if request.image is not None:
        pixels = loaded.processor.image_processor(
            images=[open_image(request.image)], return_tensors="pt"
        )
        batch |= {key: pixels[key] for key in ("pixel_values", "image_sizes")}
    batch = {key: value.to(loaded.device) for key, value in batch.items()}
    logits = loaded.base(inputs_embeds=embed_inputs(loaded, batch)).logits[0, -1].float()
    return Difference(request.id, ours, theirs, float(logits[first[at]] - logits[second[at]]))
