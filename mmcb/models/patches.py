"""Cutting a picture into patches as one matrix product, for the sake of its gradient.

A vision tower embeds patches by a convolution whose stride is its kernel. The gradient of its input
is slow as a convolution's (on a CPU six times as slow) and only a matrix product here.

Shapes: N views, C channels, h x w pixels, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmcb.models.loading import LoadedModel


@contextlib.contextmanager
def patches_by_products(loaded: LoadedModel) -> Iterator[None]:
    """Inside, the model's convolutions over patches that do not overlap are matrix products."""
    convolutions = [
        module
        for module in loaded.base.modules()
        if isinstance(module, nn.Conv2d) and _cuts(module)
    ]
    for convolution in convolutions:
        vars(convolution)["forward"] = partial(embed_patches, convolution)
    try:
        yield
    finally:
        for convolution in convolutions:
            del vars(convolution)["forward"]


def embed_patches(
    convolution: nn.Conv2d, views: Float[Tensor, "N C h w"]
) -> Float[Tensor, "N D rows columns"]:
    """What the convolution gives; pixels that fill no patch are left out, as it does."""
    high, wide = convolution.kernel_size
    rows, columns = views.shape[2] // high, views.shape[3] // wide
    cut = views[:, :, : rows * high, : columns * wide]
    cut = cut.unflatten(3, (columns, wide)).unflatten(2, (rows, high))
    patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(3)
    embedded = F.linear(patches, convolution.weight.flatten(1), convolution.bias)
    return embedded.permute(0, 3, 1, 2)


def _cuts(convolution: nn.Conv2d) -> bool:
    """Whether it only cuts patches and embeds each."""
    return (
        convolution.stride == convolution.kernel_size
        and convolution.padding in ((0, 0), "valid")
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
    )
