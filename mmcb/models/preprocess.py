"""Which differentiable twin belongs to a loaded model's image processor."""

from __future__ import annotations

from mmcb.errors import MmcbError
from mmcb.models.fixed_size import FixedSizePreprocessor
from mmcb.models.loading import LoadedModel
from mmcb.models.vision import PixelPreprocessor

Preprocessor = PixelPreprocessor | FixedSizePreprocessor


def pixel_preprocessor(loaded: LoadedModel) -> Preprocessor:
    """The twin of the model's own image processor, every setting read from it.

    Raises:
        MmcbError: the model takes no images, or no twin does what its processor does.
    """
    processor = getattr(loaded.processor, "image_processor", None)
    if processor is None:
        raise MmcbError(
            f"{loaded.name} takes no images",
            hint="use a vision-language model, such as tiny-llava-next",
        )
    if getattr(processor, "image_grid_pinpoints", None) is not None:
        return PixelPreprocessor.from_image_processor(processor, name=loaded.name)
    return FixedSizePreprocessor.from_image_processor(processor, name=loaded.name)
