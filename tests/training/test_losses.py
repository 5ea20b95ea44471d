"""The losses against slow loops in float64, and what padding must not do."""

import math

import pytest
import torch
from torch import Tensor

from mmcb.training.losses import (
    TILT,
    escape_directions,
    escape_loss,
    reroute_loss,
    retain_loss,
    target_loss,
)

L, B, T, D = 3, 4, 7, 16


def _states(seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(B, T, D, generator=generator, dtype=torch.float64).to(dtype) for _ in range(L)
    ]


def _mask() -> Tensor:
    lengths = torch.tensor([7, 3, 5, 1])
    return torch.arange(T) < lengths[:, None]


def _marked(mask: Tensor) -> Tensor:
    return mask.flatten().nonzero()[:, 0]


def _slow(adapted: list[Tensor], frozen: list[Tensor], mask: Tensor) -> tuple[float, float]:
    """Both losses, token by token in Python floats."""
    reroute, retain = [], []
    for layer in range(L):
        for b in range(B):
            for t in range(T):
                if mask[b, t]:
                    a, f = adapted[layer][b, t].tolist(), frozen[layer][b, t].tolist()
                    dot = sum(x * y for x, y in zip(a, f, strict=True))
                    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in f))
                    reroute.append(max(dot / norms, 0.0))
                    retain.append(math.sqrt(sum((x - y) ** 2 for x, y in zip(a, f, strict=True))))
    return sum(reroute) / len(reroute), sum(retain) / len(retain)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
def test_losses_equal_the_slow_ones(dtype: torch.dtype, tolerance: float) -> None:
    adapted, frozen, mask = _states(0, dtype), _states(1, dtype), _mask()
    reroute, retain = _slow(adapted, frozen, mask)
    assert float(reroute_loss(adapted, frozen, _marked(mask))) == pytest.approx(
        reroute, rel=tolerance
    )
    assert float(retain_loss(adapted, frozen, _marked(mask))) == pytest.approx(
        retain, rel=tolerance
    )


def test_target_loss_equals_the_slow_one_and_needs_no_escape() -> None:
    adapted, mask = _states(0, torch.float64), _mask()
    targets = torch.stack([layer[0, 0] for layer in _states(1, torch.float64)])
    slow = []
    for layer in range(L):
        t = targets[layer].tolist()
        for vector in adapted[layer][mask].tolist():
            norms = [math.sqrt(sum(x * x for x in v)) for v in (vector, t)]
            gaps = [a / norms[0] - b / norms[1] for a, b in zip(vector, t, strict=True)]
            slow.append(math.sqrt(sum(x * x for x in gaps)))
    adapted = [layer.requires_grad_() for layer in adapted]
    marked = _marked(mask)
    loss = target_loss(adapted, targets * 3, marked)  # its length does not matter
    assert loss.item() == pytest.approx(sum(slow) / len(slow), rel=1e-12)
    loss.backward()
    assert all(layer.grad is not None and layer.grad.abs().max() > 1e-4 for layer in adapted)


def test_target_loss_is_zero_with_a_finite_gradient_at_the_target() -> None:
    targets = torch.randn(L, D, generator=torch.Generator().manual_seed(0))
    adapted = [(2 * t).expand(B, T, D).clone().requires_grad_() for t in targets]
    loss = target_loss(adapted, targets, _marked(_mask()))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert all(layer.grad is not None and layer.grad.isfinite().all() for layer in adapted)


def test_half_precision_is_measured_in_float32() -> None:
    states = _states(0, torch.bfloat16)
    assert reroute_loss(states, states, _marked(_mask())).dtype == torch.float32
    assert retain_loss(states, states, _marked(_mask())).dtype == torch.float32


def test_what_stands_in_padding_does_not_count_not_even_nan() -> None:
    adapted, frozen, mask = _states(0), _states(1), _mask()
    expected = (
        reroute_loss(adapted, frozen, _marked(mask)),
        retain_loss(adapted, frozen, _marked(mask)),
    )
    for layer in range(L):
        adapted[layer][~mask] = math.nan
        frozen[layer][~mask] = math.inf
        adapted[layer].requires_grad_()
    found = (
        reroute_loss(adapted, frozen, _marked(mask)),
        retain_loss(adapted, frozen, _marked(mask)),
    )
    assert [x.item() for x in found] == [x.item() for x in expected]
    (found[0] + found[1]).backward()
    assert all(layer.grad is not None and layer.grad.isfinite().all() for layer in adapted)


def test_more_padding_changes_nothing() -> None:
    adapted, frozen, mask = _states(0), _states(1), _mask()
    wide = [[torch.nn.functional.pad(x, (0, 0, 0, 9)) for x in h] for h in (adapted, frozen)]
    wide_mask = torch.nn.functional.pad(mask, (0, 9))
    assert torch.equal(
        retain_loss(*wide, _marked(wide_mask)), retain_loss(adapted, frozen, _marked(mask))
    )
    assert torch.equal(
        reroute_loss(*wide, _marked(wide_mask)), reroute_loss(adapted, frozen, _marked(mask))
    )


def test_nothing_marked_is_zero() -> None:
    states, none = _states(0), torch.arange(0)
    assert float(reroute_loss(states, states, none)) == 0
    assert float(retain_loss(states, states, none)) == 0


def test_zero_vectors_have_cosine_zero_and_finite_gradients() -> None:
    zeros = [torch.zeros(B, T, D, requires_grad=True) for _ in range(L)]
    loss = reroute_loss(zeros, _states(1), _marked(_mask()))
    loss.backward()
    assert loss.item() == 0
    assert all(layer.grad is not None and layer.grad.isfinite().all() for layer in zeros)


def test_the_saddle_and_the_way_off_it() -> None:
    """At cosine 1 the reroute and the retain loss have no gradient; the escape loss has one."""
    frozen, mask = _states(1, torch.float64), _mask()
    directions = escape_directions(L, width=D, seed=0).double()

    def gradient(loss: str) -> float:
        adapted = [layer.clone().requires_grad_() for layer in frozen]
        value = {
            "reroute": lambda: reroute_loss(adapted, frozen, _marked(mask)),
            "retain": lambda: retain_loss(adapted, frozen, _marked(mask)),
            "escape": lambda: escape_loss(adapted, frozen, directions, _marked(mask)),
        }[loss]()
        value.backward()
        return max(float(layer.grad.abs().max()) for layer in adapted if layer.grad is not None)

    assert gradient("reroute") < 1e-15
    assert gradient("retain") == 0
    assert gradient("escape") > 1e-4


def test_escape_falls_with_the_angle_and_ends_at_a_right_one() -> None:
    frozen, mask = _states(1), _mask()
    directions = escape_directions(L, width=D, seed=0)
    away = [
        direction - (direction * f).sum(-1, keepdim=True) * f / f.norm(dim=-1, keepdim=True) ** 2
        for direction, f in zip(directions, frozen, strict=True)
    ]
    turned = [
        [math.cos(x) * f - math.sin(x) * f.norm(dim=-1, keepdim=True)
         * a / a.norm(dim=-1, keepdim=True) for f, a in zip(frozen, away, strict=True)]
        for x in (0.0, 0.3, 0.9, math.pi / 2)
    ]  # fmt: skip
    losses = [float(escape_loss(states, frozen, directions, _marked(mask))) for states in turned]
    assert losses == sorted(losses, reverse=True)
    assert 0.9 < losses[0] < 1
    assert losses[-1] == 0


def test_escape_gradient_is_finite_on_the_tilted_state_itself() -> None:
    frozen, mask = _states(1), _mask()
    directions = escape_directions(L, width=D, seed=0)
    adapted = [
        (f + TILT * f.norm(dim=-1, keepdim=True) * u).requires_grad_()
        for f, u in zip(frozen, directions, strict=True)
    ]
    escape_loss(adapted, frozen, directions, _marked(mask)).backward()
    assert all(layer.grad is not None and layer.grad.isfinite().all() for layer in adapted)


def test_escape_directions_are_unit_and_seeded() -> None:
    directions = escape_directions(L, width=D, seed=3)
    assert torch.allclose(directions.norm(dim=-1), torch.ones(L))
    assert torch.equal(directions, escape_directions(L, width=D, seed=3))
    assert not torch.equal(directions, escape_directions(L, width=D, seed=4))
