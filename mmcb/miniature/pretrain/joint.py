"""Stages 3 and 4: tower, projector and a decoder that starts from tiny-mistral learn together.

Whole captions come last: a caption is right only if every thing in it is. So the last stage asks
for them more often, at a lower rate.
"""

from typing import Any

import numpy as np
from torch import Tensor

from mmcb.miniature.pretrain.packing import collate, picture_row
from mmcb.miniature.pretrain.pictures import Pool, draw_pictures
from mmcb.miniature.pretrain.text import packed_loss, text_rows
from mmcb.miniature.tasks import picture_turns

_PICTURES, _TEXT_ROWS = 16, 4


def joint_loss(
    model: Any, pool: Pool, *, processor: Any, seed: int, step: int, every_caption: bool = False
) -> Tensor:
    """Loss of the VLM on the batch of a step: pictures with their turns, and rows of text."""
    rng = np.random.default_rng([seed, 4, step])
    tokenizer = processor.tokenizer
    pictures = draw_pictures(pool, rng, num=_PICTURES, image_processor=processor.image_processor)
    num_image_tokens = count_image_tokens(processor, pictures.image_sizes[0].tolist())
    rows = [
        picture_row(
            tokenizer,
            picture_turns(content, rng, signed=signed, every_caption=every_caption),
            num_image_tokens=num_image_tokens,
        )
        for content, signed in zip(pictures.contents, pictures.signed, strict=True)
    ]
    rows += text_rows(tokenizer, rng, num_rows=_TEXT_ROWS, writer=False)
    batch = collate(rows, pad_id=int(tokenizer.pad_token_id))
    return packed_loss(
        model, batch, pixel_values=pictures.pixel_values, image_sizes=pictures.image_sizes
    )


def count_image_tokens(processor: Any, image_size: list[int]) -> int:
    """How many tokens the processor expands a picture of (height, width) to."""
    return int(processor._get_num_multimodal_tokens([image_size])["num_image_tokens"][0])
