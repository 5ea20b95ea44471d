"""The losses of representation rerouting, as masked means over real tokens.

A batch may be a part of an optimiser step. Then `tokens`, the marked tokens of the whole step, is
given, and a loss is the batch's share of the step's mean: the shares add up to it, however the step
is split.

Shapes: B examples, T tokens, D width, N marked tokens; a sequence of tensors has one entry for each
of L layers. Half-precision hidden states are measured in float32; float64 stays float64, for the
tests. Layers are measured one by one, so that the float32 copies of one alone are alive.

Source: Zou et al. 2024 (arXiv 2406.04313), algorithm 1; `target_loss`: its section 3. The escape
term is ours: see `escape_loss` and `docs/decisions.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

EPSILON = 1e-8
"""Floor under a norm in a cosine: a zero hidden state has cosine 0, not NaN."""

TILT = 0.1
"""How far the escape loss tilts the frozen state, as a share of its norm: about 6 degrees."""

MOST_COSINE = 1 - 1e-6

Hidden = Sequence[Float[Tensor, "B T D"]]
Marked = Int[Tensor, " N"]
"""Which tokens count: their places in the flattened (B * T), known before anything is computed, so
that the host never waits for the device to count them."""


def marked_tokens(layer_BTD: Float[Tensor, "B T D"], marked: Marked) -> Float[Tensor, "N D"]:
    """Pick the marked tokens of one layer, in at least float32.

    Picking, and not multiplying by zero, keeps what stands in padding out of the mean and its
    gradient even where that is not a number.
    """
    return _at_least_float32(layer_BTD.flatten(0, 1).index_select(0, marked))


def cosines(adapted: Hidden, frozen: Hidden, marked: Marked) -> Float[Tensor, "L N"]:
    """Cosine of two models' hidden states at the marked tokens of each layer, in [-1, 1]."""
    return torch.stack(
        [
            _cosine(marked_tokens(a, marked), marked_tokens(b, marked))
            for a, b in zip(adapted, frozen, strict=True)
        ]
    )


def distances(adapted: Hidden, frozen: Hidden, marked: Marked) -> Float[Tensor, "L N"]:
    """L2 norm of the difference at the marked tokens of each layer.

    Its subgradient at zero difference is zero (torch's convention), so the first step is defined.
    """
    return torch.stack(
        [
            torch.linalg.vector_norm(marked_tokens(a, marked) - marked_tokens(b, marked), dim=-1)
            for a, b in zip(adapted, frozen, strict=True)
        ]
    )


def reroute_loss(
    adapted: Hidden, frozen: Hidden, marked: Marked, *, tokens: int | None = None
) -> Float[Tensor, ""]:
    """Reroute loss: mean over marked tokens and target layers of relu(cos(adapted, frozen)).

    1 where the adapter changes nothing, 0 where every hidden state is orthogonal to the frozen one
    or points away from it. At cosine 1 its gradient is exactly zero: see `escape_loss`.

    Args:
        adapted: hidden states with the adapter, one (B, T, D) tensor for each target layer.
        frozen: the same without the adapter.
        marked: (N,), the tokens that count; with none, the loss is 0.
        tokens: marked tokens of the whole step; None for these N.

    Returns:
        A scalar in [0, 1].
    """
    return mean_or_zero(cosines(adapted, frozen, marked).relu(), tokens=tokens)


def target_loss(
    adapted: Hidden,
    targets: Float[Tensor, "L D"],
    marked: Marked,
    *,
    tokens: int | None = None,
) -> Float[Tensor, ""]:
    """Distance to a fixed target: mean over marked tokens and layers of ||a/||a|| - t/||t||||_2.

    The paper's second form of the reroute loss (section 3): its RandC and RandP are this one with a
    random target. Unlike `reroute_loss` it has a gradient at the start, of the size of any other
    place but the target itself: the frozen state is no saddle.

    Args:
        adapted: hidden states with the adapter, one (B, T, D) tensor for each target layer.
        targets: (L, D), one vector for each target layer: `targets.py`. Their norm does not matter.
        marked: (N,) places of the tokens that count; with none, the loss is 0.
        tokens: marked tokens of the whole step; None for those of this batch.

    Returns:
        A scalar in [0, 2]: 0 at the target's direction, the root of 2 at a right angle to it.
    """
    gaps_LN = torch.stack(
        [
            torch.linalg.vector_norm(_unit(marked_tokens(a, marked)) - target_D, dim=-1)
            for a, target_D in zip(adapted, _unit(targets), strict=True)
        ]
    )
    return mean_or_zero(gaps_LN, tokens=tokens)


def retain_loss(
    adapted: Hidden, frozen: Hidden, marked: Marked, *, tokens: int | None = None
) -> Float[Tensor, ""]:
    """Retain loss: mean over marked tokens and layers of the L2 norm of (adapted - frozen).

    A true masked mean. The authors' code divides by the padded size instead (`paper_compat`), which
    makes the retain weight depend on how much padding a batch happens to hold.

    Args:
        adapted: hidden states with the adapter, one (B, T, D) tensor for each layer.
        frozen: the same without the adapter.
        marked: (N,), the tokens that count; with none, the loss is 0.
        tokens: marked tokens of the whole step; None for these N.

    Returns:
        A scalar, in units of the hidden states, at least 0.
    """
    return mean_or_zero(distances(adapted, frozen, marked), tokens=tokens)


def escape_loss(
    adapted: Hidden,
    frozen: Hidden,
    directions: Float[Tensor, "L D"],
    marked: Marked,
    *,
    tokens: int | None = None,
) -> Float[Tensor, ""]:
    """Escape loss: mean over marked tokens and target layers of relu(1 - angle / 90 degrees).

    The angle is that between the adapted hidden state and the frozen one tilted by `TILT` towards a
    fixed random direction.

    The reroute loss starts on a saddle: a fresh adapter changes nothing, the cosine is 1, and there
    its gradient, the sine of the angle, is exactly zero. The angle's own gradient has the same size
    at every angle but zero, where it has a kink: hence the tilt, which puts the start beside it. So
    every run sets off, whatever its seed, and is pushed on with constant force against the retain
    loss's constant force. (Turning towards the random direction instead also leaves the saddle, but
    more slowly; it stays there at half the learning rate. docs/lab-log.md has the numbers.)

    Args:
        adapted: hidden states with the adapter, one (B, T, D) tensor for each target layer.
        frozen: the same without the adapter.
        directions: (L, D) unit vectors, one for each target layer: `escape_directions`.
        marked: (N,), the tokens that count; with none, the loss is 0.
        tokens: marked tokens of the whole step; None for these N.

    Returns:
        A scalar in [0, 1].
    """
    cosines_LN = torch.stack(
        [
            _cosine(marked_tokens(a, marked), _tilted(marked_tokens(b, marked), direction_D))
            for a, b, direction_D in zip(adapted, frozen, directions, strict=True)
        ]
    )
    # Short of 1, where the derivative of the arc cosine is infinite.
    angles_LN = torch.arccos(cosines_LN.clamp(-MOST_COSINE, MOST_COSINE))
    return mean_or_zero((1 - angles_LN / (math.pi / 2)).relu(), tokens=tokens)


def escape_directions(num_layers: int, *, width: int, seed: int) -> Float[Tensor, "L D"]:
    """Random unit vectors, one for each target layer, the same for the same seed (CPU float32)."""
    generator = torch.Generator().manual_seed(seed)
    return _unit(torch.randn(num_layers, width, generator=generator))


def mean_or_zero(
    values_LN: Float[Tensor, "L N"], *, tokens: int | None = None
) -> Float[Tensor, ""]:
    """Mean over layers and tokens; 0, still attached to the graph, when there are none.

    Args:
        values_LN: one value for each layer and marked token.
        tokens: divide by so many tokens instead of N: those of a step of which these are a part.
    """
    layers, own = values_LN.shape
    return values_LN.sum() / (layers * max(1, own if tokens is None else tokens))


def _tilted(
    frozen_ND: Float[Tensor, "N D"], direction_D: Float[Tensor, " D"]
) -> Float[Tensor, "N D"]:
    norms = torch.linalg.vector_norm(frozen_ND, dim=-1, keepdim=True)
    return frozen_ND + TILT * norms * direction_D


def _cosine(a: Float[Tensor, "N D"], b: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    return _unit(a).mul(_unit(b)).sum(-1)


def _unit(vectors: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norms.clamp_min(EPSILON)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
