"""The targeted objective of image attacks: how unlikely is the target answer, given this picture?

Prompts are encoded once; a step costs one pass of the differentiable preprocessing, the vision
tower and the decoder, and the vocabulary projection at the target's positions only.

Shapes: B behaviors, A rows of them, T tokens, K positions with logits, V views, H x W raw picture.
"""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from mmcb.models.chat import encode
from mmcb.models.loading import LoadedModel
from mmcb.models.vision import PixelPreprocessor
from mmcb.records import Message

IGNORED = -100
"""Label of a position that is not part of a target."""


def freeze(loaded: LoadedModel) -> None:
    """Evaluation mode, and no gradients for any weight: only pixels are optimised."""
    loaded.model.eval()
    loaded.model.requires_grad_(False)


class TargetObjective:
    """Mean cross-entropy of each behavior's target tokens, for pictures of one size.

    Args:
        loaded: the model under attack; it is frozen here.
        input_ids: per behavior the prompt with its expanded image tokens and the target.
        target_starts: per behavior the index of the target's first token.
        image_size: (height, width) of every picture.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        input_ids: Sequence[Sequence[int]],
        target_starts: Sequence[int],
        image_size: tuple[int, int],
    ) -> None:
        freeze(loaded)
        self._loaded = loaded
        self._preprocess = PixelPreprocessor.from_loaded(loaded)
        self.image_size = image_size
        self._lengths = [len(ids) for ids in input_ids]
        self._starts = list(target_starts)
        # Padding stands on the right: under a causal mask nothing before it can see it, hence no
        # attention mask is needed and every prompt keeps its own positions.
        padding = loaded.tokenizer.pad_token_id or 0
        ids_BT = torch.full((len(input_ids), max(self._lengths)), padding)
        labels_BT = torch.full_like(ids_BT, IGNORED)
        for row, (ids, start) in enumerate(zip(input_ids, target_starts, strict=True)):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
            labels_BT[row, start : len(ids)] = ids_BT[row, start : len(ids)]
        self._ids_BT = ids_BT.to(loaded.device)
        self._labels_BT = labels_BT.to(loaded.device)

    @classmethod
    def prepare(
        cls,
        loaded: LoadedModel,
        *,
        prompts: Sequence[str],
        targets: Sequence[str],
        image_size: tuple[int, int],
    ) -> Self:
        """Encode one prompt-target pair per behavior with the model's own chat template.

        The target is an opening that the answer is forced to begin with, not a whole answer: no
        end-of-sequence token is demanded after it.
        """
        input_ids, target_starts = [], []
        for prompt, target in zip(prompts, targets, strict=True):
            messages = (Message(role="user", content=prompt),)
            encoded = encode(loaded, messages, image_size=image_size, prefill=target)
            input_ids.append(encoded.input_ids)
            target_starts.append(encoded.completion_start)
        return cls(loaded, input_ids=input_ids, target_starts=target_starts, image_size=image_size)

    def __call__(
        self, images: Float[Tensor, "A 3 H W"], rows: Int64[Tensor, " A"]
    ) -> Float[Tensor, " A"]:
        """Losses of raw pictures in [0, 1], differentiable in the pictures."""
        pixel_values, image_sizes = self._preprocess(images)
        return self.loss_of_views(pixel_values, image_sizes, rows)

    @torch.no_grad()
    def stock_losses(
        self, images: Sequence[Image.Image], rows: Int64[Tensor, " A"]
    ) -> Float[Tensor, " A"]:
        """Losses of pictures that went through the model's own processor, as a user's would."""
        views = self._loaded.processor.image_processor(images=list(images), return_tensors="pt")
        return self.loss_of_views(views["pixel_values"], views["image_sizes"], rows)

    def loss_of_views(
        self,
        pixel_values: Float[Tensor, "A V 3 h w"],
        image_sizes: Int64[Tensor, "A 2"],
        rows: Int64[Tensor, " A"],
    ) -> Float[Tensor, " A"]:
        """Mean cross-entropy over each row's target tokens, from the model's own inputs."""
        listed = rows.tolist()
        length = max(self._lengths[row] for row in listed)
        first = min(self._starts[row] for row in listed)
        device = self._loaded.device
        logits_AKW = self._loaded.model(
            input_ids=self._ids_BT[rows, :length],
            pixel_values=pixel_values.to(device, self._loaded.dtype),
            image_sizes=image_sizes.to(device),
            use_cache=False,
            # The logits at position t - 1 predict token t.
            logits_to_keep=torch.arange(first - 1, length - 1, device=device),
        ).logits
        labels_AK = self._labels_BT[rows, first:length]
        losses_AK = F.cross_entropy(
            logits_AKW.float().transpose(1, 2),
            labels_AK,
            ignore_index=IGNORED,
            reduction="none",
        )
        return losses_AK.sum(dim=1) / (labels_AK != IGNORED).sum(dim=1)
