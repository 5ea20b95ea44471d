"""What a family's row says of its recipe: defaults that the command line may change. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mask = Literal["all", "completion", "after_image"]

RerouteTarget = Literal["rr", "refusal", "eos", "randp"]
"""What the reroute loss moves circuit-breaker tokens to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeDefaults:
    """Where a family's rerouting run starts from; every field can be changed on the command line.

    Layer words: `target_layers` are indices into Hugging Face's `hidden_states`, where entry k is
    the output of block k-1 (entry 0 is the embeddings). `lora_layers` are block numbers, first and
    last inclusive, as the paper and upstream give them; `clip_lora_layers` drops the blocks that
    come after the last target, whose adapters no target can see.
    """

    reroute_weight: float
    """alpha in c_s = alpha (1 - t / horizon): weight of the reroute loss (paper, algorithm 1)."""
    retain_weight: float
    """alpha in c_r = alpha t / horizon: weight of the retain loss. The paper uses one alpha."""
    target_layers: tuple[int, ...]
    """`hidden_states` indices whose representations are rerouted."""
    lora_layers: tuple[int, int]
    """First and last decoder block that gets LoRA, inclusive."""
    mask: Mask
    """Which tokens the losses count: every one, the completion, or those after the image."""
    retain_mask: Mask | None = None
    """Which tokens the retain loss counts; None: those of `mask`."""
    learning_rate: float = 1e-4
    """AdamW, constant, no warm-up (upstream)."""
    steps: int = 150
    """Optimiser steps T."""
    horizon: int = 300
    """Where the schedule would reach (0, alpha); 2T in the paper, so a run ends half way."""
    retain_warmup_steps: int = 0
    """Steps during which the retain loss has no weight (0: the paper's schedule as it stands)."""
    batch_size: int = 16
    """Circuit-breaker examples a step."""
    retain_batch_size: int = 16
    """Retain examples a step."""
    max_length: int = 1024
    """Text tokens an example may have; image tokens are not counted."""
    lora_rank: int = 16
    """LoRA r."""
    lora_alpha: int = 16
    """LoRA alpha (scale = alpha / r)."""
    lora_dropout: float = 0.05
    """Dropout in front of LoRA's A."""
    alternate: bool = False
    """Text-only and image batches take turns, step by step (paper, C.3)."""
    reroute_target: RerouteTarget = "rr"
    """Where circuit-breaker tokens are rerouted to (rr: paper, algorithm 1)."""
    embedding_noise: float = 0.0
    """Most that a circuit-breaker token's embedding is moved by, as a share of its length."""
    no_request_fraction: float = 0.0
    """Share of training examples whose request is emptied (upstream: half, for Llama-3 only)."""
    evaluate_after: bool = False
    """Whether a run ends with a small evaluation; only where that takes seconds."""


def clip_lora_layers(
    lora_layers: tuple[int, int], *, target_layers: tuple[int, ...]
) -> tuple[int, int]:
    """Drop the blocks after the last target: `hidden_states[k]` is the output of block k-1."""
    first, last = lora_layers
    return first, min(last, max(target_layers) - 1)
