"""Where circuit-breaker tokens are rerouted to, where that is a fixed direction at each layer.

The paper (Zou et al. 2024, section 3) turns them away from their own frozen state, and leaves "a
refusal direction or the embedding of the EOS token" to future work. Here the two are what the
frozen model itself makes of the retain set: the mean of its states at the token *before* the first
word of a refusal, and before the end of an answer. There, and not at the refusal's or the end's own
tokens, it has settled what comes next; and in the target layer's own terms, which an embedding is
not.

Shapes: B examples, T tokens, L target layers, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mmcb.errors import MmcbError
from mmcb.models.hidden import embed_inputs, run_blocks
from mmcb.models.loading import LoadedModel
from mmcb.models.recipe_defaults import RerouteTarget
from mmcb.training.batches import PixelCache, collate
from mmcb.training.examples import EncodedExample
from mmcb.training.recipes import Recipe

MOST_ANCHORS = 256
"""Examples that a mean is taken over, at most: seconds, and far more than a direction needs."""

PASS_EXAMPLES = 8
"""Examples of a pass. Not the recipe's batch size: another split of a step has the same targets."""

Anchor = tuple[EncodedExample, int]
"""An example and the token in it whose state counts."""


def reroute_targets(
    loaded: LoadedModel,
    recipe: Recipe,
    examples: Sequence[EncodedExample],
    *,
    pixels: PixelCache,
    seed: int,
) -> Float[Tensor, "L D"] | None:
    """The fixed targets of a recipe; None for the paper's loss, which has none.

    Args:
        loaded: the model to train; an adapter on it is switched off.
        recipe: its `reroute_target` and `target_layers`.
        examples: what it is trained on.
        pixels: where their images come from.
        seed: seed of a random target.

    Raises:
        MmcbError: the retain set has no example to take the target from.
    """
    if recipe.reroute_target == "rr":
        return None
    if recipe.reroute_target == "randp":
        width = int(loaded.decoder.config.hidden_size)
        targets_LD = random_positive(len(recipe.target_layers), width=width, seed=seed)
    else:
        eos_id = loaded.tokenizer.eos_token_id
        anchors = find_anchors(examples, recipe.reroute_target, eos_id=eos_id)
        targets_LD = mean_states(loaded, anchors, layers=recipe.target_layers, pixels=pixels)
    return targets_LD.to(torch.float64 if loaded.dtype == torch.float64 else torch.float32)


def find_anchors(
    examples: Sequence[EncodedExample], target: RerouteTarget, *, eos_id: int | None
) -> list[Anchor]:
    """Retain examples, evenly spread, and the token before a refusal or before the end.

    Args:
        examples: of both sets; of the circuit-breaker set none counts.
        target: "refusal" or "eos".
        eos_id: token that ends an answer; an example that was cut does not have it. None for a
            tokenizer without one.

    Raises:
        MmcbError: there is none.
    """
    retain = [example for example in examples if example.kind == "retain"]
    if target == "refusal":
        refused = [e for e in retain if e.task == "refusal"]
        # Of a long request, the place before the answer may have been cut off too.
        found = [(e, e.answer_start - 1) for e in refused if e.answer_start <= len(e.input_ids)]
        hint = "synthesis writes refusals (--refusal-fraction); so has --retain-data upstream:FILE"
    else:
        found = [(e, len(e.input_ids) - 2) for e in retain if e.input_ids[-1] == eos_id]
        hint = "all answers were cut: raise --max-length"
    if not found:
        raise MmcbError(
            f"--reroute-target {target}: the retain set has no"
            f" {'refusal' if target == 'refusal' else 'answer with an end'} to take it from",
            hint=hint,
        )
    count = min(MOST_ANCHORS, len(found))
    return [found[i * len(found) // count] for i in range(count)]


@torch.no_grad()
def mean_states(
    loaded: LoadedModel, anchors: Sequence[Anchor], *, layers: Sequence[int], pixels: PixelCache
) -> Float[Tensor, "L D"]:
    """Mean frozen hidden states at the anchors, layer by layer, in float64 on the CPU.

    Args:
        loaded: the model; an adapter on it is switched off.
        anchors: examples and tokens; every one weighs the same.
        layers: indices into hidden_states.
        pixels: where images come from.
    """
    pad_id = int(loaded.tokenizer.pad_token_id or 0)
    total = torch.zeros(())
    # Like lengths together: little padding.
    ordered = sorted(anchors, key=lambda anchor: len(anchor[0].input_ids))
    for start in range(0, len(ordered), PASS_EXAMPLES):
        group = ordered[start : start + PASS_EXAMPLES]
        batch = collate([example for example, _ in group], pixels=pixels, pad_id=pad_id)
        batch = batch.to(loaded.device)
        with loaded.adapter_disabled():
            hidden_BTD = embed_inputs(loaded, batch.model_inputs())
            # No mask: the padding stands on the right, where no real token sees it.
            states = run_blocks(
                loaded, hidden_BTD, None, None, start=0, stop=max(layers), collect=set(layers)
            )
        rows = torch.arange(len(group), device=loaded.device)
        tokens = torch.tensor([token for _, token in group], device=loaded.device)
        picked = [states[k][rows, tokens] for k in layers]
        total = total + torch.stack(picked, dim=1).cpu().double().sum(0)
    return total / len(ordered)


def random_positive(num_layers: int, *, width: int, seed: int) -> Float[Tensor, "L D"]:
    """Random positive unit vectors (RandP), one for each layer, the same for the same seed.

    The paper says no more than "random positive unit vector": entries uniform in [0, 1) are ours.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors_LD = torch.rand(num_layers, width, generator=generator).double()
    return vectors_LD / torch.linalg.vector_norm(vectors_LD, dim=-1, keepdim=True)
