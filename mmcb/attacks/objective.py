"""The targeted objective of image attacks: how unlikely is the target answer, given this picture?

A step costs one pass of the differentiable preprocessing, the vision tower and the decoder from
the image on (`forcing.py`). One picture for several behaviors goes through all of these once, and
only what stands behind it for each of them.

Shapes: B behaviors, A rows of them, N pictures (A, or one for all), T tokens, H x W raw picture.
"""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from mmcb.attacks.core import Losses, Moment
from mmcb.attacks.forcing import Embedded, Forced, TargetTokens
from mmcb.models.chat import encode, image_token_id
from mmcb.models.hidden import image_features
from mmcb.models.loading import LoadedModel
from mmcb.models.patches import patches_by_products
from mmcb.models.preprocess import pixel_preprocessor
from mmcb.records import Message


class TargetObjective:
    """Mean cross-entropy of each behavior's target tokens, for pictures of one size.

    The target is an opening that the answer is forced to begin with: no end-of-sequence token is
    demanded after it.

    Args:
        loaded: the model under attack; it is frozen here.
        prompts: one request a behavior; may be empty.
        targets: what the answer is to begin with.
        image_size: (height, width) of every picture.
    """

    passes = 1

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        prompts: Sequence[str],
        targets: Sequence[str],
        image_size: tuple[int, int],
    ) -> None:
        encoded = [
            encode(
                loaded,
                (Message(role="user", content=prompt),),
                image_size=image_size,
                prefill=target,
            )
            for prompt, target in zip(prompts, targets, strict=True)
        ]
        self._loaded = loaded
        self._preprocess = pixel_preprocessor(loaded)
        self._image_id = image_token_id(loaded)
        self.image_size = image_size
        self.tokens = TargetTokens(
            loaded,
            input_ids=[one.input_ids for one in encoded],
            target_starts=[one.completion_start for one in encoded],
            fixed_until=[one.input_ids.index(self._image_id) for one in encoded],
            watched_from=[one.after_image_start for one in encoded],
        )
        # False where a template puts the request before the picture.
        self._picture_is_common = all(
            one.after_image_start <= self.tokens.num_common for one in encoded
        )

    def __call__(
        self, images: Float[Tensor, "A 3 H W"], rows: Int64[Tensor, " A"], moment: Moment
    ) -> Losses:
        """Losses of raw pictures in [0, 1], differentiable in the pictures."""
        losses = self.force(self.embed(images, rows), rows).cross_entropy()
        return Losses(losses, losses)

    def embed(self, images: Float[Tensor, "N 3 H W"], rows: Int64[Tensor, " A"]) -> Embedded:
        """Embeddings of the tokens from the image on."""
        pixel_values, image_sizes = self._preprocess(images)
        pixel_values = pixel_values.to(self._loaded.device, self._loaded.dtype)
        with patches_by_products(self._loaded):
            features = image_features(self._loaded, pixel_values, image_sizes)
        tokens = self.tokens
        if len(features) == 1 < len(rows) and self._picture_is_common:
            own = self._words(tokens.ids(rows, start=tokens.num_common))
            return Embedded(own, common=self._fill(tokens.common_ids(), features))
        if len(features) == 1:
            features = features * len(rows)
        return Embedded(self._fill(tokens.ids(rows, start=tokens.num_fixed), features))

    def force(
        self, embedded: Embedded, rows: Int64[Tensor, " A"], *, layers: Collection[int] = ()
    ) -> Forced:
        """The model's pass over what `embed` gave."""
        return self.tokens.run(embedded, rows, layers=layers)

    @torch.no_grad()
    def stock(self, images: Sequence[Image.Image], rows: Int64[Tensor, " A"]) -> Forced:
        """The pass over pictures that went through the stock processor, as a user's would.

        Nothing of the attack's own path is used: whole prompts, the model's own embedding of the
        image, no kept keys and values.
        """
        views = self._loaded.processor.image_processor(images=list(images), return_tensors="pt")
        device = self._loaded.device
        inputs = {name: value.to(device) for name, value in views.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(self._loaded.dtype)
        logits = self._loaded.model(
            input_ids=self.tokens.ids(rows, start=0),
            use_cache=False,
            logits_to_keep=self.tokens.predicting(rows),
            **inputs,
        ).logits
        return Forced(logits, self.tokens.labels(rows), {})

    def _words(self, ids: Int64[Tensor, "A t"]) -> Float[Tensor, "A t D"]:
        embedded: Tensor = self._loaded.base.get_input_embeddings()(ids)
        return embedded

    def _fill(self, ids: Int64[Tensor, "A t"], features: list[Tensor]) -> Float[Tensor, "A t D"]:
        """Embeddings with features in the places of the image tokens."""
        embedded = self._words(ids)
        at = (ids == self._image_id).unsqueeze(-1)
        return embedded.masked_scatter(at, torch.cat(features).to(embedded))
