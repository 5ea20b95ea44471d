"""Dropout that belongs to the example, and not to its batch."""

import numpy as np
import torch

from mmcb.training.batches import Batch
from mmcb.training.dropout import RowDropout, RowNoise, _hash

D = 64


def _batch(ids: tuple[str, ...], lengths: tuple[int, ...], *, left: bool = False) -> Batch:
    width = max(lengths) + 2
    mask = torch.zeros(len(ids), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, width - length :] = 1 if left else 0
        mask[row, : 0 if left else length] = 1
    none = torch.arange(0)
    return Batch(mask, mask, none, none, None, None, ids)


def _kept(batch: Batch, *, seed: int = 0, step: int = 1) -> dict[str, torch.Tensor]:
    """What two dropout layers leave of each example's real tokens."""
    noise = RowNoise()
    first, second = (RowDropout(0.25, noise, layer=layer).train() for layer in (0, 1))
    ones = torch.ones(*batch.attention_mask.shape, D)
    with noise.of(batch, seed=seed, step=step, device=torch.device("cpu")):
        both = torch.stack([first(ones), second(ones)], dim=1)
    real = batch.attention_mask.bool()
    return {name: both[row][:, real[row]] for row, name in enumerate(batch.ids)}


def test_company_and_padding_do_not_matter() -> None:
    together = _kept(_batch(("a", "b", "c"), (7, 3, 5)))
    for batch in (_batch(("c",), (5,)), _batch(("b", "c"), (3, 5), left=True)):
        assert torch.equal(_kept(batch)["c"], together["c"])


def test_examples_steps_seeds_and_modules_differ() -> None:
    batch = _batch(("a", "b"), (5, 5))
    first = _kept(batch)
    assert not torch.equal(first["a"], first["b"])
    assert not torch.equal(first["a"][0], first["a"][1])
    assert not torch.equal(first["a"], _kept(batch, step=2)["a"])
    assert not torch.equal(first["a"], _kept(batch, seed=1)["a"])
    assert torch.equal(first["a"], _kept(batch)["a"])


def test_a_layer_that_runs_again_meets_the_same_noise() -> None:
    noise, ones = RowNoise(), torch.ones(1, 5, D)
    module = RowDropout(0.25, noise, layer=3).train()
    with noise.of(_batch(("a",), (3,)), seed=0, step=1, device=torch.device("cpu")):
        assert torch.equal(module(ones), module(ones))


def test_it_is_dropout() -> None:
    kept = _kept(_batch(("a",), (200,)))["a"]
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(float(kept.mean()) - 1) < 0.02
    module = RowDropout(0.25, RowNoise(), layer=0)
    ones = torch.ones(2, 3, D)
    assert torch.equal(module.eval()(ones), ones)
    assert (module.train()(ones) == 0).any()  # without a batch: torch's own


def test_the_hash_is_murmurs_finaliser_keyed_whatever_the_size_and_sign() -> None:
    """Against unsigned arithmetic: torch's is signed, in vectors but for the rest."""
    generator = torch.Generator().manual_seed(0)
    for size in (1, 7, 1000):
        word, key = (
            torch.randint(-(2**31), 2**31 - 1, shape, generator=generator, dtype=torch.int32)
            for shape in ((3, 2, size), (3, 1, 1))
        )
        h, k = (tensor.numpy().astype(np.uint64) % 2**32 for tensor in (word, key))
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            h = ((h ^ h >> shift) * factor + k) % 2**32
        h ^= h >> 16
        _hash(word, key)
        assert (word.numpy().astype(np.uint64) % 2**32 == h).all()


def test_the_noise_has_no_pattern() -> None:
    """Shares by row, token and entry, and correlations of neighbours, as of independent draws."""
    noise, rows, tokens = RowNoise(), 64, 50
    batch = _batch(tuple(f"{i}" for i in range(rows)), (tokens,) * rows)
    like = torch.empty(rows, tokens + 2, D)
    with noise.of(batch, seed=0, step=1, device=like.device):
        kept = [noise.keep(like, p=0.25, layer=layer) for layer in range(4)]
    drawn = torch.stack([keep[:, :tokens] for keep in kept if keep is not None]) - 0.75
    variance = 0.75 * 0.25
    for dim in range(4):
        means = drawn.mean([d for d in range(4) if d != dim])
        error = (variance / (drawn.numel() / len(means))) ** 0.5
        assert float(means.abs().max()) < 4.5 * error, dim
        near = (drawn * drawn.roll(1, dim)).mean() / variance
        assert abs(float(near)) < 4.5 * drawn.numel() ** -0.5, dim
