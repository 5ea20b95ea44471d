"""The attack as one writes it first, with Hugging Face's model and its own loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmcb.attacks.pixels import straight_to_grid
from mmcb.attacks.threat import PixelBall, from_levels
from mmcb.models.chat import encode
from mmcb.models.loading import LoadedModel
from mmcb.models.preprocess import pixel_preprocessor
from mmcb.records import Message

BALL, STEP = PixelBall(32 / 255), 1 / 255


class PlainLoop:
    """Sign steps on one picture for one or more requests, one example at a time.

    Args:
        loaded: the model.
        clean: the picture's levels, (3, H, W).
        pairs: requests and targets.
    """

    def __init__(self, loaded: LoadedModel, clean: Tensor, pairs: list[tuple[str, str]]) -> None:
        size = (clean.shape[1], clean.shape[2])
        self.model = loaded.model
        self.preprocess = pixel_preprocessor(loaded)
        self.examples = [_labelled(loaded, *pair, size) for pair in pairs]
        levels = clean[None].to(loaded.device)
        self.image = from_levels(levels)
        self.lower, self.upper = BALL.bounds(levels)
        self.dtype = loaded.dtype
        self.losses: list[float] = []

    def step(self) -> None:
        """One sign step down the mean loss."""
        image = self.image.clone().requires_grad_()
        losses = []
        self.model.zero_grad()
        for ids, labels in self.examples:
            pixel_values, image_sizes = self.preprocess(straight_to_grid(image))
            inputs: dict[str, Any] = {"pixel_values": pixel_values.to(self.dtype)}
            if pixel_values.ndim == 5:
                inputs["image_sizes"] = image_sizes
            loss = self.model(input_ids=ids, labels=labels, **inputs).loss
            (loss / len(self.examples)).backward()
            losses.append(float(loss.detach()))
        assert image.grad is not None
        self.losses.append(sum(losses) / len(losses))
        moved = self.image - STEP * image.grad.sign()
        self.image = moved.clamp(self.lower, self.upper)


def _labelled(
    loaded: LoadedModel, prompt: str, target: str, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    messages = (Message(role="user", content=prompt),)
    encoded = encode(loaded, messages, image_size=size, prefill=target)
    ids = torch.tensor([encoded.input_ids], device=loaded.device)
    labels = ids.clone()
    labels[:, : encoded.completion_start] = -100
    return ids, labels
