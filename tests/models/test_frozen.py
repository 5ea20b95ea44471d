"""The decoder as attacks run it, against the model's own forward pass."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from mmcb.errors import MmcbError
from mmcb.models.frozen import KeysValues, check_frozen, run_frozen
from mmcb.models.frozen_ops import _RMSNorm, _Rotation
from mmcb.models.loading import LoadedModel, load_model
from tests.tiny_models import make_other_decoder

BLOCKS = 8


@pytest.fixture(scope="module")
def doubled(vlm_folder: Path) -> LoadedModel:
    """A model in double precision, where equal means equal (transformers' norms stay single)."""
    loaded = load_model(str(vlm_folder), device="cpu")
    loaded.model.double()
    return loaded


@pytest.fixture(scope="module")
def grouped(llm_folder: Path) -> LoadedModel:
    """The same with one head of keys for all."""
    loaded = load_model(str(llm_folder), device="cpu")
    loaded.base.model = _grouped(loaded)
    return loaded


def _grouped(loaded: LoadedModel) -> nn.Module:
    """Such a decoder with one head of keys for all."""
    from transformers import MistralConfig, MistralModel

    text = loaded.decoder.config.to_dict() | {"num_key_value_heads": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MistralModel(MistralConfig(**text)).eval().double()


def kept_of(loaded: LoadedModel, ids: Tensor) -> list[KeysValues]:
    """Transformers' own keys and values of some tokens."""
    cache = DynamicCache()
    with torch.no_grad():
        loaded.decoder(input_ids=ids, past_key_values=cache, use_cache=True)
    return [(one.keys.transpose(1, 2), one.values.transpose(1, 2)) for one in cache.layers]


def some_ids(loaded: LoadedModel, *, before: int, length: int = 24) -> Tensor:
    """Three rows that share their first tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, loaded.decoder.config.vocab_size, (3, length), generator=generator)
    ids[:, :before] = ids[0, :before]
    return ids


@pytest.mark.parametrize("before", [0, 3, 20])
@pytest.mark.parametrize("collect", [(), (4,), (0, 4, BLOCKS)])
@pytest.mark.parametrize("window", [None, 7])
def test_values_and_gradients_equal_the_models_own(
    doubled: LoadedModel,
    before: int,
    collect: tuple[int, ...],
    window: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doubled.decoder.config, "sliding_window", window)
    ids = some_ids(doubled, before=before)
    embedded = doubled.base.get_input_embeddings()(ids).detach()
    # The tokens before are constants, for both.
    fixed, leaf = embedded[:, :before], embedded[:, before:].clone().requires_grad_()
    own = doubled.decoder(inputs_embeds=torch.cat([fixed, leaf], dim=1), output_hidden_states=True)
    kept = kept_of(doubled, ids[:1, :before]) if before else []
    ours = run_frozen(doubled, leaf, last=3, kept=kept, collect=collect)

    torch.testing.assert_close(ours.last, own.last_hidden_state[:, -3:], rtol=1e-5, atol=1e-5)
    assert set(ours.hidden) == set(collect)
    for layer in collect:
        expected = own.hidden_states[layer][:, before:]
        torch.testing.assert_close(ours.hidden[layer], expected, rtol=1e-5, atol=1e-5)

    weights = torch.randn(ours.last.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((ours.last * weights).sum(), leaf)
    (expected,) = torch.autograd.grad((own.last_hidden_state[:, -3:] * weights).sum(), leaf)
    scale = float(expected.abs().max())
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize(("rows", "length"), [(3, 5), (4, 9), (3, 14)])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("model", ["doubled", "grouped"])
def test_what_rows_have_in_common_runs_once(
    model: str,
    before: int,
    rows: int,
    length: int,
    window: int | None,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """20 common tokens: all rows folded behind them, two and two, or none; to the last bits."""
    loaded: LoadedModel = request.getfixturevalue(model)
    monkeypatch.setattr(loaded.decoder.config, "sliding_window", window)
    width = loaded.decoder.config.hidden_size
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, dtype=torch.float64, generator=generator)
    fixed = run_frozen(loaded, draw(1, before or 1, width), last=0, keep=True).kept
    kept = fixed if before else []
    common, own = draw(1, 20, width).requires_grad_(), draw(rows, length, width).requires_grad_()
    collect = (0, 4, BLOCKS)

    past = run_frozen(loaded, common, last=0, kept=kept, collect=collect, keep=True)
    shared = run_frozen(loaded, own, last=3, kept=past.kept, collect=collect)
    alone = [
        run_frozen(loaded, torch.cat([common, row[None]], 1), last=3, kept=kept, collect=collect)
        for row in own
    ]
    weights = draw(rows, 3, width)
    found, expected = [shared.last], [torch.cat([one.last for one in alone])]
    for layer in collect:
        states = torch.cat([one.hidden[layer] for one in alone])
        found += [past.hidden[layer].expand(rows, -1, -1), shared.hidden[layer]]
        expected += [states[:, :20], states[:, 20:]]
    for last in (shared.last, expected[0]):
        loss = (last * weights).sum()
        (found if last is shared.last else expected).extend(
            torch.autograd.grad(loss, [common, own], retain_graph=True)
        )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_grouped_heads_share_keys(llm_folder: Path) -> None:
    """Three query heads for one of keys and values, with a prefix and in the last block's mask."""
    loaded = load_model(str(llm_folder), device="cpu")
    loaded.base.model = _grouped(loaded).float()
    ids = some_ids(loaded, before=3)
    with torch.no_grad():
        own = loaded.decoder(input_ids=ids).last_hidden_state
        embedded = loaded.base.get_input_embeddings()(ids[:, 3:])
        ours = run_frozen(loaded, embedded, last=2, kept=kept_of(loaded, ids[:1, :3]))
    assert loaded.decoder.layers[0].self_attn.num_key_value_groups == 3
    torch.testing.assert_close(ours.last, own[:, -2:], rtol=1e-4, atol=1e-5)


def test_bfloat16_is_as_near_as_bfloat16_is(llm_folder: Path) -> None:
    loaded = load_model(str(llm_folder), device="cpu", dtype="bfloat16")
    ids = some_ids(loaded, before=0)
    with torch.no_grad():
        own = loaded.decoder(input_ids=ids).last_hidden_state
        ours = run_frozen(loaded, loaded.base.get_input_embeddings()(ids), last=ids.shape[1])
    assert ours.last.dtype == torch.bfloat16
    assert float((ours.last - own).abs().mean() / own.abs().mean()) < 0.02


def test_gradients_of_norm_and_rotation() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    weight, before = draw(6), draw(1, 2, 3, 4)
    hidden = draw(2, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: _RMSNorm.apply(x, weight, 1e-6), (hidden,))
    # Not the cosine and sine of anything: the adjoint must not lean on that.
    cos, sin, heads = draw(1, 5, 1, 4), draw(1, 5, 1, 4), draw(2, 5, 3, 4).requires_grad_()
    for known in (before, before.clone().requires_grad_()):
        assert torch.autograd.gradcheck(
            lambda x, y: _Rotation.apply(x, cos, sin, y), (heads, known)
        )


class _Shifted(nn.Module):
    """Gemma's norm: the weight is around zero."""

    variance_epsilon = 1e-6

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.rms_norm(hidden, hidden.shape[-1:], 1 + self.weight)


def test_a_decoder_unlike_llamas_is_refused(llm_folder: Path) -> None:
    loaded = load_model(str(llm_folder), device="cpu")
    check_frozen(loaded)
    width = loaded.decoder.config.hidden_size
    for norm in (_Shifted(width), nn.LayerNorm(width)):
        loaded.decoder.layers[2].input_layernorm = norm
        with pytest.raises(MmcbError, match="not like Llama's"):
            check_frozen(loaded)


def test_kinds_of_attention_that_twelve_tokens_cannot_show_are_refused(tmp_path: Path) -> None:
    """Qwen2 with a window of 32 in its last blocks alone: one window for all would be wrong."""
    folder = make_other_decoder(tmp_path, "qwen2-windows", sliding_window=32)
    with pytest.raises(MmcbError, match="not like Llama's"):
        check_frozen(load_model(str(folder), device="cpu"))
