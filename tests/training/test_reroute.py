"""The module that computes the losses: identities at step 0, what moves, what is shared."""

import re

import pytest
import torch

from mmcb.models.loading import LoadedModel, load_model
from mmcb.training.batches import Batch, PixelCache, collate
from mmcb.training.reroute import Rerouter, add_adapter
from mmcb.training.schedule import Weights
from tests.training.helpers import KINDS, Load, encoded, tiny_recipe

WEIGHTS = Weights(reroute=5.0, retain=5.0, escape=1.0)


def _adapted(load: Load, kind: str) -> tuple[LoadedModel, Rerouter]:
    loaded = load(kind)
    recipe = tiny_recipe(loaded)
    loaded = add_adapter(loaded, recipe, seed=0)
    return loaded, Rerouter(loaded, recipe, seed=0)


def _batch(data_folder, loaded: LoadedModel, *, rows: slice = slice(None, None, 3)) -> Batch:
    examples = encoded(data_folder, loaded, tiny_recipe(loaded)).examples[rows]
    return collate(examples, pixels=PixelCache(loaded), pad_id=loaded.tokenizer.pad_token_id)


def _perturb(loaded: LoadedModel, size: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)


@pytest.mark.parametrize("kind", KINDS)
def test_at_step_0_adapted_is_frozen(load: Load, data_folder, kind: str) -> None:
    loaded, rerouter = _adapted(load, kind)
    batch = _batch(data_folder, loaded)
    frozen, adapted = rerouter.train().hidden_states(batch)
    assert sorted(frozen) == sorted(adapted) == [3, 4]
    assert all(torch.equal(frozen[k], adapted[k]) for k in frozen)
    outputs = rerouter(batch, WEIGHTS)
    assert float(outputs["reroute_loss"]) == pytest.approx(1.0, abs=1e-6)
    assert float(outputs["retain_loss"]) == 0.0
    assert float(outputs["reroute_cosine"]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_shared_prefix_equals_two_whole_passes(load: Load, data_folder, kind: str) -> None:
    loaded, rerouter = _adapted(load, kind)
    _perturb(loaded)
    batch = _batch(data_folder, loaded)
    rerouter.eval()
    with torch.no_grad():
        frozen, adapted = rerouter.hidden_states(batch)
        whole = loaded.model(**batch.model_inputs(), output_hidden_states=True, use_cache=False)
        with loaded.adapter_disabled():
            base = loaded.model(**batch.model_inputs(), output_hidden_states=True, use_cache=False)
    real = batch.attention_mask.bool()
    norm = loaded.decoder.norm  # transformers norms its last hidden state; block 4 is the last here
    for k, states, reference in ((3, adapted, whole), (3, frozen, base)):
        assert torch.allclose(states[k][real], reference.hidden_states[k][real], atol=1e-4)
    assert torch.allclose(norm(adapted[4])[real], whole.hidden_states[4][real], atol=1e-4)
    assert torch.allclose(norm(frozen[4])[real], base.hidden_states[4][real], atol=1e-4)
    assert not torch.allclose(adapted[4], frozen[4], atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_blocks_loaded_same_losses(load: Load, data_folder, model_folders, kind: str) -> None:
    found = []
    for blocks in (4, None):
        loaded = load_model(str(model_folders[kind]), num_blocks=blocks, device="cpu")
        recipe = tiny_recipe(loaded)
        loaded = add_adapter(loaded, recipe, seed=0)
        _perturb(loaded)
        rerouter = Rerouter(loaded, recipe, seed=0).eval()
        found.append(rerouter(_batch(data_folder, loaded), WEIGHTS)["loss"].item())
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_change_the_losses(load: Load, data_folder, kind: str) -> None:
    loaded, rerouter = _adapted(load, kind)
    _perturb(loaded)
    rerouter.eval()
    batch = _batch(data_folder, loaded, rows=slice(None, None, 5))
    width = batch.input_ids.shape[1]
    pad = [torch.nn.functional.pad(x, (0, 11)) for x in (batch.input_ids, batch.attention_mask)]
    marked = [m + m // width * 11 for m in (batch.rerouted, batch.retained)]
    padded = Batch(*pad, *marked, batch.pixel_values, batch.image_sizes, batch.ids)
    plain, wide = rerouter(batch, WEIGHTS), rerouter(padded, WEIGHTS)
    for name, value in plain.items():
        assert wide[name].item() == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_the_token_weighted_mean_of_its_rows(load: Load, data_folder, kind: str) -> None:
    loaded, rerouter = _adapted(load, kind)
    _perturb(loaded)
    rerouter.eval()
    examples = [
        e for e in encoded(data_folder, loaded, tiny_recipe(loaded)).examples if e.kind == "retain"
    ][:4]
    pixels = PixelCache(loaded)
    alone, tokens = [], []
    for example in examples:
        batch = collate([example], pixels=pixels, pad_id=0)
        alone.append(float(rerouter(batch, WEIGHTS)["retain_loss"]))
        tokens.append(len(batch.retained))
    together = float(rerouter(collate(examples, pixels=pixels, pad_id=0), WEIGHTS)["retain_loss"])
    mean = sum(a * n for a, n in zip(alone, tokens, strict=True)) / sum(tokens)
    assert together == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_on_the_decoder_get_a_gradient(load: Load, data_folder, kind: str) -> None:
    loaded, rerouter = _adapted(load, kind)
    _perturb(loaded)
    rerouter.train()(_batch(data_folder, loaded), WEIGHTS)["loss"].backward()
    prefix = f"base_model.model.{loaded.family.decoder_layers}."
    for name, parameter in loaded.model.named_parameters():
        if "lora_" in name:
            assert re.match(re.escape(prefix) + r"[23]\.", name)
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0
        else:
            assert parameter.grad is None
            assert not parameter.requires_grad
    assert sum("lora_A" in name for name, _ in loaded.model.named_parameters()) == 2 * 7


def test_vision_tower_has_modules_of_the_same_name_and_no_adapter(load: Load) -> None:
    loaded, _ = _adapted(load, "vlm")
    tower = [name for name, _ in loaded.model.named_modules() if "vision_tower" in name]
    assert any(name.endswith("q_proj") for name in tower)
    assert not any("lora" in name for name in tower)


def test_dropout_is_on_only_in_the_adapter_and_only_in_training(load: Load, data_folder) -> None:
    loaded, rerouter = _adapted(load, "llm")
    rerouter.train()
    training = {name for name, m in loaded.model.named_modules() if m.training}
    assert training
    assert all("lora_dropout" in name for name in training)
    rerouter.eval()
    assert not any(module.training for module in rerouter.modules())


def test_same_seed_same_adapter_and_torch_is_left_alone(load: Load) -> None:
    def adapter(seed: int) -> list[torch.Tensor]:
        loaded = load("llm")
        loaded = add_adapter(loaded, tiny_recipe(loaded), seed=seed)
        return [p for n, p in loaded.model.named_parameters() if "lora_A" in n]

    before = torch.random.get_rng_state()
    first, again, other = adapter(1), adapter(1), adapter(2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_never_waits_for_the_device(load: Load, data_folder, kind: str) -> None:
    """On torch's meta device nothing has a value: whoever reads one in mid-step, fails."""
    loaded = load(kind)
    recipe = tiny_recipe(loaded)
    batch = _batch(data_folder, loaded)
    assert (batch.pixel_values is not None) == (kind == "vlm")
    loaded = add_adapter(loaded, recipe, seed=0)
    loaded.model.to("meta")
    rerouter = Rerouter(loaded, recipe, seed=0).train()
    outputs = rerouter(batch.to(torch.device("meta")), WEIGHTS)
    outputs["loss"].backward()
    with pytest.raises(RuntimeError, match="meta"):
        outputs["loss"].item()


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_precision_model_keeps_a_float32_adapter(load: Load, data_folder, kind: str) -> None:
    found = {}
    for dtype in ("float32", "bfloat16"):
        loaded = load(kind, dtype=dtype)
        recipe = tiny_recipe(loaded, lora_dropout=0.0)
        loaded = add_adapter(loaded, recipe, seed=0)
        _perturb(loaded)
        rerouter = Rerouter(loaded, recipe, seed=0).train()
        _, adapted = rerouter.hidden_states(_batch(data_folder, loaded))
        assert all(str(state.dtype) == f"torch.{dtype}" for state in adapted.values())
        outputs = rerouter(_batch(data_folder, loaded), WEIGHTS)
        outputs["loss"].backward()
        trained = [p for p in loaded.model.parameters() if p.requires_grad]
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in trained)
        found[dtype] = (
            outputs["loss"].detach(), torch.cat([p.grad.flatten() for p in trained])
        )  # fmt: skip
    (loss, gradient), (half_loss, half_gradient) = found.values()
    assert float(half_loss) == pytest.approx(float(loss), rel=0.03)
    assert torch.nn.functional.cosine_similarity(gradient, half_gradient, dim=0) > 0.98
