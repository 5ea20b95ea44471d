"""The adapter as training computes it equals PEFT's own, in values and in gradients."""

import pytest
import torch
from peft.tuners.lora import Linear

from mmcb.training.batches import Batch
from mmcb.training.lora import FusedLora, install_fused_lora
from mmcb.training.reroute import add_adapter
from tests.training.helpers import Load, tiny_recipe


def _outputs(linear: Linear, x: torch.Tensor) -> list[torch.Tensor]:
    """The map's output, and the gradients of input, A and B."""
    x = x.clone().requires_grad_()
    y = linear(x)
    y.backward(torch.cos(y.detach()))
    found = [y.detach(), x.grad]
    for part in (linear.lora_A, linear.lora_B):
        found.append(part["default"].weight.grad.clone())
        part["default"].weight.grad = None
    return found


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_as_peft_computes_it(load: Load, dropout: float) -> None:
    loaded = load("llm")
    recipe = tiny_recipe(loaded, lora_dropout=dropout, lora_alpha=8, lora_rank=4)
    model = add_adapter(loaded, recipe, seed=0).model.double()
    installed = install_fused_lora(model)
    batch = Batch(
        torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.long),
        torch.arange(0), torch.arange(0), None, None, ("a", "b"),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    linears = [module for module in model.modules() if isinstance(module, FusedLora)]
    assert len(linears) == 2 * 7
    for linear in linears[:7]:
        with torch.no_grad():
            linear.lora_B["default"].weight.normal_(generator=generator)
        linear.base_layer.bias = torch.nn.Parameter(torch.ones(linear.out_features).double())
        linear.base_layer.bias.requires_grad_(False)
        for dropped in installed.dropouts:
            dropped.train()
        x = torch.randn(2, 5, linear.in_features, generator=generator, dtype=torch.float64)
        with installed.noise.of(batch, seed=0, step=1, device=x.device):
            ours = _outputs(linear, x)
            linear.__class__ = Linear
            theirs = _outputs(linear, x)
            linear.__class__ = FusedLora
        for one, other in zip(ours, theirs, strict=True):
            assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
        with installed.switch.off():
            assert torch.equal(linear(x), linear.base_layer(x))
        assert not torch.allclose(linear(x), linear.base_layer(x))
