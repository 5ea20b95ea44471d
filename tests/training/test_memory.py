"""The budget of a pass: what is measured, what is planned, and what a run then really takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmcb.errors import MmcbError
from mmcb.training import memory
from mmcb.training.batches import PixelCache, collate
from mmcb.training.memory import GIB, NO_LIMIT, PeakBytes, plan_memory
from mmcb.training.reroute import Rerouter, add_adapter
from mmcb.training.schedule import Weights
from tests.training.helpers import KINDS, Load, encoded, tiny_config, tiny_recipe


def _rerouter(load: Load, kind: str) -> Rerouter:
    loaded = load(kind)
    recipe = tiny_recipe(loaded, lora_dropout=0.2)
    return Rerouter(add_adapter(loaded, recipe, seed=0), recipe, seed=0)


def test_the_peak_is_what_is_alive_at_once() -> None:
    with PeakBytes() as peak:
        first = torch.ones(1000)  # 4,000 bytes
        second = first * 2
        view = second[:10]
        del first
        third = torch.zeros(500, dtype=torch.float64)
    assert peak.most == 8000
    assert peak.now == 8000
    del second, third
    assert peak.now == 4000  # a view keeps its storage
    del view
    assert peak.now == 0


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_no_digit_of_the_gradient(load: Load, data_folder, kind: str) -> None:
    """With dropout: the second run of a block meets the noise of the first."""
    found, kept = [], []
    for checkpointing in (False, True):
        rerouter = _rerouter(load, kind).train()
        rerouter.checkpointing = checkpointing
        loaded = rerouter._loaded
        examples = encoded(data_folder, loaded, rerouter._recipe).examples[::3]
        batch = collate(examples, pixels=PixelCache(loaded), pad_id=0)
        with PeakBytes() as peak, rerouter.noise.of(batch, seed=0, step=1, device=loaded.device):
            rerouter(batch, Weights(1.0, 1.0, 1.0))["loss"].backward()
        kept.append(peak.most)
        found.append([p.grad for p in rerouter.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kept[1] < kept[0]


def test_without_a_budget_a_cpu_has_no_limit(load: Load) -> None:
    assert plan_memory(_rerouter(load, "llm"), budget=None, longest=10**9) == NO_LIMIT


def test_a_smaller_budget_means_shorter_passes_then_checkpoints_then_a_sentence(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_standing_bytes", lambda rerouter: GIB)
    rerouter = _rerouter(load, "llm")
    large = plan_memory(rerouter, budget=2 * GIB, longest=100)
    small = plan_memory(rerouter, budget=GIB + GIB // 2, longest=100)
    assert not large.checkpointing
    assert not small.checkpointing
    assert large.max_tokens is not None
    assert small.max_tokens is not None
    assert large.max_tokens == pytest.approx(2 * small.max_tokens, rel=0.01)
    tight = plan_memory(rerouter, budget=2 * GIB, longest=large.max_tokens + 64)
    assert tight.checkpointing
    assert tight.max_tokens is not None
    assert tight.max_tokens > large.max_tokens
    with pytest.raises(MmcbError, match=r"--memory 1\.0GiB: .* need"):
        plan_memory(rerouter, budget=GIB, longest=100)


def test_a_budget_that_is_no_size_is_refused() -> None:
    assert tiny_config(memory="16GiB").memory_bytes == 16 * GIB
    with pytest.raises(ValueError, match="memory"):
        tiny_config(memory="plenty")


RUN = """
import json, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from transformers import MistralConfig, MistralForCausalLM
from mmcb.models.families import find_family
from mmcb.models.loading import LoadedModel
from mmcb.training.examples import EncodedExample, ExampleSet
from mmcb.training.reroute import add_adapter
from mmcb.training.trainer import Intervals, Trainer
from tests.training.helpers import tiny_recipe

budget, folder = int(sys.argv[1]) or None, Path(sys.argv[2])
config = MistralConfig(vocab_size=64, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
                       num_attention_heads=4, num_key_value_heads=2, sliding_window=None)
torch.manual_seed(0)
model = MistralForCausalLM(config).requires_grad_(False).eval()
tokenizer = type("Tokenizer", (), {"pad_token_id": 0, "bos_token_id": None})()
loaded = LoadedModel("made", find_family("mistral"), model, tokenizer, tokenizer, None)
recipe = tiny_recipe(loaded, steps=1, batch_size=14, retain_batch_size=14)
loaded = add_adapter(loaded, recipe, seed=0)
examples = [
    EncodedExample(f"{kind}{n}", kind, tuple(range(1, 64)) * 8, 1, None)
    for kind in ("circuit_breaker", "retain") for n in range(14)
]
trainer = Trainer(loaded, recipe, train=ExampleSet(examples, {}), heldout=ExampleSet([], {}),
                  seed=0, accelerator=Accelerator(cpu=True), memory=budget)
def peak():  # not getrusage, which hands a parent's peak down to its child
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

before = peak()
rows = list(trainer.run(folder / "checkpoint", every=Intervals(checkpoint=10**9, validate=0)))
after = peak()
print(json.dumps({"before": before, "after": after, "loss": rows[0]["loss"]}))
"""


def test_a_real_run_stays_in_its_budget(tmp_path: Path) -> None:
    """Peak memory of a process, as the kernel counts it, without a limit and with half of that."""

    def run(budget: int) -> dict[str, float]:
        command = [sys.executable, "-c", RUN, str(budget), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        (tmp_path / "checkpoint").unlink()
        return result

    free = run(0)
    budget = int((free["before"] + free["after"]) / 2) + memory.RESERVE["cpu"]
    assert free["after"] > budget + GIB // 16  # the limit is one
    bound = run(budget)
    assert bound["after"] <= budget
    assert bound["loss"] == pytest.approx(free["loss"], rel=1e-5)
