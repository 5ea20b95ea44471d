"""One picture for many behaviors, run once, against a pass of its own for each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmcb.attacks.adaptive import AdaptiveObjective
from mmcb.attacks.core import Moment, Objective
from mmcb.attacks.forcing import Embedded, TargetTokens
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.universal import UniversalObjective
from mmcb.models.loading import LoadedModel, load_model
from tests.attacks.attack_worlds import save_random_adapter
from tests.tiny_models import make_tiny_llava_1_5, make_tiny_vlm

SIZE = (56, 112)
REQUESTS = ("how do i zorch the dog ?", "how do i zorch the big red cup , please ?", "zorch it", "")
TARGETS = (
    "to zorch the dog , first",
    "to zorch",
    "to zorch it , first grab the dog",
    "to zorch it",
)
ONE_TARGET = ("to zorch",) * 4
NO_REQUESTS = ("",) * 4
BLOCKS = 8
NOW = Moment(restart=0, step=0, steps=10, seed=0, row_ids=("picture",))
TO_THE_LAST_BITS = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(scope="module", params=[make_tiny_vlm, make_tiny_llava_1_5])
def adapted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> LoadedModel:
    """A random model in double precision with a random adapter on it."""
    make: Callable[[Path], Path] = request.param
    folder = make(tmp_path_factory.mktemp("vlm"))
    save_random_adapter(folder, folder / "adapter")
    loaded = load_model(str(folder), adapter=folder / "adapter", device="cpu")
    loaded.model.double()
    return loaded


def picture() -> Tensor:
    levels = torch.randint(0, 256, (1, 3, *SIZE), generator=torch.Generator().manual_seed(0))
    return levels.double() / 255


def make_objective(
    loaded: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    requests: tuple[str, ...] = REQUESTS,
    targets: tuple[str, ...] = TARGETS,
) -> tuple[TargetObjective, Tensor]:
    """An objective and the views that it runs on, a leaf: resizing rounds gradients to float32."""
    target = TargetObjective(loaded, prompts=requests, targets=targets, image_size=SIZE)
    views, sizes = target._preprocess(picture())
    monkeypatch.setattr(target, "_preprocess", lambda _: (views.requires_grad_(), sizes))
    return target, views


@pytest.mark.parametrize(
    ("requests", "targets"), [(REQUESTS, TARGETS), (NO_REQUESTS, TARGETS), (REQUESTS, ONE_TARGET)]
)
@pytest.mark.parametrize("mode", ["adapter", "base", "adaptive"])
def test_losses_and_gradients_are_those_of_each_behavior_alone(
    adapted: LoadedModel,
    requests: tuple[str, ...],
    targets: tuple[str, ...],
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, views = make_objective(adapted, monkeypatch, requests, targets)
    objective: Objective = target
    if mode == "adaptive":
        objective = AdaptiveObjective(
            target, loaded=adapted, layers=(2, BLOCKS), weight=2.0, ramp=0.0
        )
    with adapted.adapter_disabled() if mode == "base" else torch.enable_grad():
        losses = [
            objective(picture(), torch.tensor(rows), NOW).descend
            for rows in ([0, 1, 2, 3], [2, 0], [0], [1], [2], [3])
        ]
        together, some, alone = losses[0], losses[1], torch.cat(losses[2:])
        gradients = [torch.autograd.grad(one.sum(), views)[0] for one in (together, alone)]
    torch.testing.assert_close(together, alone, **TO_THE_LAST_BITS)
    torch.testing.assert_close(some, alone[[2, 0]], **TO_THE_LAST_BITS)
    torch.testing.assert_close(*gradients, **TO_THE_LAST_BITS)
    assert float((gradients[0] != 0).double().mean()) > 0.9


def test_every_behavior_still_counts_as_a_pass(adapted: LoadedModel) -> None:
    target = TargetObjective(adapted, prompts=REQUESTS, targets=TARGETS, image_size=SIZE)
    adaptive = AdaptiveObjective(target, loaded=adapted, layers=(2,), weight=1.0, ramp=0.0)
    assert UniversalObjective(target, count=4, batch=3).passes == 3
    assert UniversalObjective(adaptive, count=4, batch=3).passes == 6


@pytest.mark.parametrize("adapter_on", [True, False])
def test_states_at_the_pictures_places_are_each_behaviors(
    adapted: LoadedModel, adapter_on: bool
) -> None:
    """The distance of whoever watches the picture too, and its gradient."""
    target = TargetObjective(adapted, prompts=REQUESTS, targets=TARGETS, image_size=SIZE)
    rows = torch.arange(4)
    ids = [target.tokens.ids(row[None], start=0)[0].tolist() for row in rows]
    known = target.tokens
    tokens = TargetTokens(
        adapted,
        input_ids=ids,
        target_starts=[int(known.predicting(row[None])[0]) + 1 for row in rows],
        fixed_until=[known.num_fixed] * 4,
        watched_from=[known.num_fixed + 2] * 4,
    )
    assert (tokens.num_fixed, tokens.num_common) == (known.num_fixed, known.num_common)
    with torch.enable_grad() if adapter_on else adapted.adapter_disabled():
        embedded = target.embed(picture(), rows)
        assert embedded.common is not None
        common = embedded.common.detach().requires_grad_()
        whole = torch.cat([common.expand(4, -1, -1), embedded.own], dim=1)
        once = tokens.run(Embedded(embedded.own, common), rows, layers=(0, 3, BLOCKS))
        each = tokens.run(Embedded(whole), rows, layers=(0, 3, BLOCKS))
    mask = tokens.watched(rows).unsqueeze(-1)
    assert mask.shape[1] == max(map(len, ids)) - known.num_fixed - 2
    gradients = []
    for forced in (once, each):
        total = sum((state.sin() * mask).sum() for state in forced.hidden.values())
        gradients.append(torch.autograd.grad(total, common)[0])
    torch.testing.assert_close(once.logits, each.logits, **TO_THE_LAST_BITS)
    for layer, states in each.hidden.items():
        torch.testing.assert_close(once.hidden[layer], states, **TO_THE_LAST_BITS)
    torch.testing.assert_close(*gradients, **TO_THE_LAST_BITS)


def seen_by(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, step: Callable[[], Any]) -> int:
    """Tokens that go through the first block."""
    seen = 0
    linear = loaded.decoder_layers[0].mlp.up_proj

    def counted(states: Tensor) -> Tensor:
        nonlocal seen
        seen += states.shape[0] * states.shape[1]
        return type(linear).forward(linear, states)

    monkeypatch.setattr(linear, "forward", counted)
    step()
    return seen


def test_the_decoder_runs_the_picture_once(
    adapted: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = TargetObjective(adapted, prompts=REQUESTS, targets=TARGETS, image_size=SIZE)
    rows, tokens = torch.arange(4), target.tokens
    target(picture(), rows, NOW)  # keeps the fixed tokens
    own = tokens.ids(rows, start=tokens.num_common).shape[1] - 1
    seen = seen_by(adapted, monkeypatch, lambda: target(picture(), rows, NOW))
    assert seen == tokens.num_common - tokens.num_fixed + 4 * own
    assert tokens.num_common - tokens.num_fixed > 15


def test_a_request_before_the_picture_shares_nothing(
    adapted: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = adapted.processor.chat_template
    behind = template.replace("<image>\n", "").replace("' [/INST]'", "' <image> [/INST]'")
    monkeypatch.setattr(adapted.processor, "chat_template", behind)
    target = TargetObjective(adapted, prompts=REQUESTS, targets=TARGETS, image_size=SIZE)
    rows = torch.arange(4)
    assert target.embed(picture(), rows).common is None
    together = target(picture(), rows, NOW).descend
    alone = [target(picture(), row[None], NOW).descend for row in rows]
    torch.testing.assert_close(together, torch.cat(alone), **TO_THE_LAST_BITS)
