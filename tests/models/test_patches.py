"""Patches by a matrix product, against the convolution."""

import pytest
import torch
from torch import nn

from mmcb.models.hidden import image_features
from mmcb.models.loading import LoadedModel
from mmcb.models.patches import embed_patches, patches_by_products


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(12, 12), (13, 11)])
def test_equal_to_the_convolution(bias: bool, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    convolution = nn.Conv2d(3, 5, kernel_size=(4, 3), stride=(4, 3), bias=bias).double()
    views = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator).requires_grad_()
    ours, theirs = embed_patches(convolution, views), convolution(views)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.randn(theirs.shape, dtype=torch.float64, generator=generator)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), views)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), views)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_only_inside_and_only_patches(vlm: LoadedModel) -> None:
    """A tower's features are the same; the model is as it was, also after an error."""
    pixels = torch.randn(1, 3, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[56, 112]])
    (convolution,) = (one for one in vlm.base.modules() if isinstance(one, nn.Conv2d))
    with torch.no_grad():
        (before,) = image_features(vlm, pixels, sizes)
        with patches_by_products(vlm):
            assert "forward" in vars(convolution)
            (inside,) = image_features(vlm, pixels, sizes)
    torch.testing.assert_close(inside, before, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="size"), patches_by_products(vlm):
        image_features(vlm, pixels[..., :3], sizes)
    assert "forward" not in vars(convolution)
    convolution.stride = (7, 7)
    try:
        with patches_by_products(vlm):
            assert "forward" not in vars(convolution)
    finally:
        convolution.stride = (14, 14)
