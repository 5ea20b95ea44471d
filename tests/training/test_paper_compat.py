"""`--paper-compat` against values computed by hand, as the authors' code computes them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmcb.errors import MmcbError
from mmcb.models.families import FAMILIES
from mmcb.training import paper_compat
from mmcb.training.batches import PixelCache
from mmcb.training.examples import EncodedExample
from mmcb.training.objective import StepTotals, step_totals
from mmcb.training.paper_compat import PaperCompat, reroute_mean, retain_mean
from mmcb.training.recipes import resolve_recipe
from mmcb.training.reroute import Rerouter, add_adapter
from mmcb.training.run import train
from mmcb.training.schedule import Weights
from mmcb.training.trainer import read_metrics
from tests.training.helpers import Load, encoded, tiny_config, tiny_recipe
from tests.training.reference import in_float64

WEIGHTS = Weights(reroute=3.0, retain=2.0, escape=0.0)


def _example(kind: str, ids: range, *, answer: int) -> EncodedExample:
    return EncodedExample(f"{kind}-{ids}", kind, tuple(ids), answer, None, answer, 0)  # type: ignore[arg-type]


def test_two_tokens_by_hand() -> None:
    """Two layers, one row of four positions, two of them real: (3, 4) and (0, 2)."""
    frozen = [torch.tensor([[[9.0, 9.0], [3.0, 4.0], [0.0, 2.0], [7.0, 7.0]]])] * 2
    adapted = [
        torch.tensor([[[0.0, 0.0], [4.0, 3.0], [2.0, 2.0], [0.0, 0.0]]]),
        torch.tensor([[[0.0, 0.0], [-3.0, -4.0], [0.0, 5.0], [0.0, 0.0]]]),
    ]
    marked = torch.tensor([1, 2])
    # Cosines: 24/25 and 1/sqrt 2; -1, which counts 0, and 1. Over 2 tokens in 2 layers.
    wanted = (24 / 25 + 2**-0.5 + 0 + 1) / 4
    assert float(reroute_mean(adapted, frozen, marked)) == pytest.approx(wanted, rel=1e-6)
    # Norms of differences: sqrt 2 and 2; 10 and 3. Over all 4 positions and, say, 5 states.
    wanted = (2**0.5 + 2 + 10 + 3) / (4 * 5)
    found = retain_mean(adapted, frozen, marked, positions=4, num_states=5)
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_nan_in_padding_does_not_poison() -> None:
    frozen = [torch.tensor([[[3.0, 4.0], [torch.nan, 1.0]]])]
    adapted = [torch.tensor([[[4.0, 3.0], [1.0, torch.nan]]])]
    marked = torch.tensor([0])
    assert float(reroute_mean(adapted, frozen, marked)) == pytest.approx(0.96)
    found = retain_mean(adapted, frozen, marked, positions=2, num_states=1)
    assert float(found) == pytest.approx(2**0.5 / 2)


def test_layout(load: Load) -> None:
    """Request up to position 512, answer from there; retain examples up to position 1024."""
    loaded = load("llm")
    objective = PaperCompat(loaded, tiny_recipe(loaded, paper_compat=True))
    short = _example("circuit_breaker", range(10, 17), answer=4)
    long = _example("circuit_breaker", range(10, 1710), answer=700)
    retain = _example("retain", range(10, 1310), answer=5)
    brief = _example("retain", range(10, 13), answer=2)
    examples = [short, long, retain, brief]
    batch = objective.collate(examples, pixels=PixelCache(loaded))
    assert batch.input_ids.shape == (4, 1024)
    assert batch.input_ids[0, 508:515].tolist() == list(range(10, 17))
    assert batch.attention_mask[0].nonzero().flatten().tolist() == list(range(508, 515))
    assert batch.input_ids[1].tolist() == [*range(10, 522), *range(710, 1222)]
    assert batch.input_ids[2].tolist() == list(range(10, 1034))
    assert batch.input_ids[3, 1021:].tolist() == [10, 11, 12]
    real = batch.attention_mask.bool()
    circuit_breaker = torch.tensor([[True], [True], [False], [False]])
    for marked, mask in ((batch.rerouted, circuit_breaker), (batch.retained, ~circuit_breaker)):
        assert torch.equal(marked, (real & mask).flatten().nonzero()[:, 0])
    totals = step_totals(objective, examples, batches=1)
    assert totals == StepTotals.of_batch(batch)


def test_schedule_counts_batches_up_to_300(load: Load) -> None:
    loaded = load("llm")
    recipe = tiny_recipe(loaded, paper_compat=True, accumulation=4, reroute_weight=10,
                         retain_weight=10, horizon=8, escape_steps=20)  # fmt: skip
    objective = PaperCompat(loaded, recipe)
    first, later = objective.weights(1, micro=0), objective.weights(3, micro=2)
    assert (first.reroute, first.retain) == pytest.approx((10 * 299 / 300, 10 / 300))
    assert (later.reroute, later.retain) == pytest.approx((10 * 289 / 300, 10 * 11 / 300))
    assert first.escape == later.escape == 0


@pytest.mark.parametrize("lora_layers", [(0, 3), (2, 3)])
def test_a_batch_is_what_the_authors_code_makes_of_it(
    load: Load, data_folder: Path, monkeypatch: pytest.MonkeyPatch, lora_layers: tuple[int, int]
) -> None:
    monkeypatch.setattr(paper_compat, "HALF", 24)
    monkeypatch.setattr(paper_compat, "WHOLE", 48)
    loaded = in_float64(load("llm", num_blocks=5), monkeypatch)  # one block after the last target
    recipe = tiny_recipe(loaded, paper_compat=True, lora_layers=lora_layers)
    assert recipe.num_blocks == 5
    loaded = add_adapter(loaded, recipe, seed=0)
    loaded.model.double()
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    rerouter = Rerouter(loaded, recipe, seed=0).eval()
    examples = encoded(data_folder, loaded, recipe).examples[::2]
    batch = rerouter.objective.collate(examples, pixels=PixelCache(loaded))
    assert batch.input_ids.shape[1] == 48

    def hidden_states() -> np.ndarray:
        with torch.no_grad():
            found = loaded.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask,
                                 output_hidden_states=True, use_cache=False)  # fmt: skip
        return torch.stack(found.hidden_states).numpy()  # (6, B, 48, D)

    lora = hidden_states()
    with loaded.adapter_disabled():
        orig = hidden_states()
    is_retain = np.array([example.kind == "retain" for example in examples])
    mask = batch.attention_mask.numpy()
    # As compute_loss: the retain rows' mean over all positions of all 6 hidden states.
    difference = (lora - orig)[:, is_retain] * mask[None, is_retain, :, None]
    retain = np.nanmean(np.linalg.norm(difference, axis=-1))
    a, b = lora[[3, 4]][:, ~is_retain], orig[[3, 4]][:, ~is_retain]
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    m = np.repeat(mask[None, ~is_retain], 2, axis=0)
    reroute = np.maximum((a * b * m[..., None]).sum(-1), 0).sum() / m.sum()

    found = rerouter(batch, WEIGHTS)
    assert float(found["retain_loss"]) == pytest.approx(retain, abs=1e-9)
    assert float(found["reroute_loss"]) == pytest.approx(reroute, abs=1e-9)
    assert float(found["loss"].detach()) == pytest.approx(3 * reroute + 2 * retain, abs=1e-9)
    half = rerouter(batch, WEIGHTS, StepTotals(1, 1, batches=2))
    assert float(half["retain_loss"]) == pytest.approx(retain / 2, abs=1e-9)


@pytest.mark.parametrize("name", ["mistral", "llama-3"])
def test_layers_are_those_of_the_authors_scripts(name: str) -> None:
    config = tiny_config(paper_compat=True, target_layers=(10, 20), lora_layers=(0, 20),
                         steps=150, mask="completion", retain_warmup_steps=9)  # fmt: skip
    recipe = resolve_recipe(config, FAMILIES[name])
    assert recipe.lora_layers == (0, 20)
    assert recipe.num_blocks == 21  # 22 hidden states
    assert (recipe.horizon, recipe.escape_steps, recipe.retain_warmup_steps) == (300, 0, 0)
    assert recipe.mask == recipe.retain_mask == "all"


def test_what_the_authors_code_cannot_do_is_refused() -> None:
    family = FAMILIES["tiny-mistral"]
    with pytest.raises(MmcbError, match="300"):
        resolve_recipe(tiny_config(paper_compat=True, steps=150, accumulation=2), family)
    with pytest.raises(MmcbError, match="last hidden state"):
        resolve_recipe(tiny_config(paper_compat=True, target_layers=(8,)), family)


def test_a_run(model_folders: dict[str, Path], data_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(model=str(model_folders["llm"]), data=data_folder, out=tmp_path / "run",
                         paper_compat=True, steps=2, batch_size=1, retain_batch_size=1)  # fmt: skip
    rows = read_metrics(train(config))
    assert [row["tokens"] < 2 * 1024 for row in rows] == [True, True]
    assert [row["retain_weight"] for row in rows] == pytest.approx([5 / 300, 10 / 300])
