"""Stage 1: the tokenizer, and tiny-mistral, which learns everything that needs no picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mmcb.miniature.architecture import train_tokenizer
from mmcb.miniature.pretrain.packing import IGNORED, PackedBatch, Row, collate, text_row
from mmcb.miniature.scenes import random_content
from mmcb.miniature.tasks import TEXT_MIXTURE, Rng, Turn, caption_turn

ROW_TOKENS = 224


def draw_text_turn(rng: Rng, *, writer: bool) -> Turn:
    """One turn from the text mixture; `writer` takes tiny-mistral's shares, else the VLM's."""
    shares = np.array([entry[0] if writer else entry[1] for entry in TEXT_MIXTURE])
    choice = int(rng.choice(len(shares), p=shares / shares.sum()))
    return TEXT_MIXTURE[choice][2](rng, random_content(rng))


def make_tokenizer(*, seed: int, num_turns: int = 6000) -> PreTrainedTokenizerFast:
    """The tokenizer, trained on a sample of every kind of turn."""
    rng = np.random.default_rng([seed, 1])
    texts: list[str] = []
    for index in range(num_turns):
        if index % 8 == 0:
            turn = caption_turn(random_content(rng), rng)
        else:
            turn = draw_text_turn(rng, writer=True)
        # With a picture a prompt follows a line break, without one a space.
        texts += [f" {turn.prompt} ", f"\n{turn.prompt} ", f" {turn.response}"]
    return train_tokenizer(texts)


def text_rows(
    tokenizer: PreTrainedTokenizerFast, rng: Rng, *, num_rows: int, writer: bool
) -> list[Row]:
    """Rows of about ROW_TOKENS tokens each, packed with turns."""
    rows = []
    for _ in range(num_rows):
        turns: list[Turn] = []
        length = 0
        while length < ROW_TOKENS - 24:
            turn = draw_text_turn(rng, writer=writer)
            turns.append(turn)
            length += 5 + len(turn.prompt.split()) + len(turn.response.split())
        rows.append(text_row(tokenizer, turns))
    return rows


def text_batch(tokenizer: PreTrainedTokenizerFast, *, seed: int, step: int) -> PackedBatch:
    """The batch of a step: a pure function of (seed, step)."""
    rng = np.random.default_rng([seed, 2, step])
    rows = text_rows(tokenizer, rng, num_rows=16, writer=True)
    return collate(rows, pad_id=int(tokenizer.pad_token_id))


def packed_loss(model: Any, batch: PackedBatch, **vision: Tensor | Sequence[Any]) -> Tensor:
    """Mean cross-entropy over the labelled tokens; only those go through the lm_head."""
    hidden_BTD = model.model(
        input_ids=batch.input_ids,
        attention_mask=batch.mask,
        position_ids=batch.position_ids,
        use_cache=False,
        **vision,
    ).last_hidden_state
    targets_BT = batch.labels[:, 1:]
    taught_BT = targets_BT != IGNORED
    logits_NV = model.lm_head(hidden_BTD[:, :-1][taught_BT])
    return F.cross_entropy(logits_NV.float(), targets_BT[taught_BT])


def text_loss(model: Any, tokenizer: PreTrainedTokenizerFast, *, seed: int, step: int) -> Tensor:
    """Loss of tiny-mistral on the batch of a step."""
    return packed_loss(model, text_batch(tokenizer, seed=seed, step=step))
