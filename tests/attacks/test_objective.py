"""The targeted objective on a small random LLaVA-NeXT, against the model's plain forward pass."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmcb.attacks.adaptive import AdaptiveObjective, distance
from mmcb.attacks.core import Moment
from mmcb.attacks.forcing import TargetTokens
from mmcb.attacks.image_hijack.subjects import levels_to_image
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.optimiser import StepRule
from mmcb.attacks.pgd import PGDSettings, ProjectedGradientDescent
from mmcb.attacks.pixels import PixelSpace
from mmcb.attacks.threat import PixelBall, from_levels
from mmcb.attacks.universal import UniversalObjective
from mmcb.models.loading import LoadedModel, load_model
from tests.attacks.attack_worlds import save_random_adapter
from tests.tiny_models import make_tiny_llava_1_5, make_tiny_vlm

PROMPTS = ("how do i zorch the dog ?", "how do i zorch the big red cup , please ?", "zorch it")
TARGETS = (
    "to zorch the dog , first",
    "to zorch the cup",
    "to zorch it , first grab the dog , then",
)
NOW = Moment(restart=0, step=0, steps=10, seed=0, row_ids=("a", "b", "c"))
SIZES = [(112, 224), (131, 57), (56, 56), (40, 150)]


MODELS = [
    (make_tiny_vlm, "torchvision"),
    (make_tiny_vlm, "pil"),
    (make_tiny_llava_1_5, "torchvision"),
    (make_tiny_llava_1_5, "pil"),
]


@pytest.fixture(scope="module", params=MODELS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    make, backend = request.param
    return load_model(str(make(tmp_path_factory.mktemp("vlm"), backend=backend)), device="cpu")


@pytest.fixture(scope="module")
def loaded_once(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(str(make_tiny_vlm(tmp_path_factory.mktemp("vlm"))), device="cpu")


def objective(loaded: LoadedModel, size: tuple[int, int], count: int = 3) -> TargetObjective:
    return TargetObjective(
        loaded, prompts=PROMPTS[:count], targets=TARGETS[:count], image_size=size
    )


def pictures(size: tuple[int, int], count: int = 3) -> Tensor:
    """Smooth pictures with some noise, as photographs are."""
    generator = torch.Generator().manual_seed(size[0])
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bilinear") * 255
    noise = torch.randint(-20, 21, smooth.shape, generator=generator)
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def plain_loss(loaded: LoadedModel, image: Image.Image, prompt: str, target: str) -> float:
    """The same loss the long way: stock processor, text, full logits, one example."""
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    before = loaded.processor.apply_chat_template(turns, add_generation_prompt=True)
    short = loaded.processor(images=image, text=before, return_tensors="pt")
    whole = loaded.processor(images=image, text=f"{before} {target}", return_tensors="pt")
    with torch.no_grad():
        logits = loaded.model(**whole).logits[0]
    ids = whole["input_ids"][0]
    start = short["input_ids"].shape[1]
    return float(F.cross_entropy(logits[start - 1 : -1], ids[start:]))


@pytest.mark.parametrize("size", SIZES)
def test_losses_equal_the_plain_forward_pass(loaded: LoadedModel, size: tuple[int, int]) -> None:
    levels = pictures(size)
    rows = torch.arange(3)
    images = [levels_to_image(one) for one in levels]
    stock = objective(loaded, size).stock(images, rows).cross_entropy()
    expected = [
        plain_loss(loaded, image, prompt, target)
        for image, prompt, target in zip(images, PROMPTS, TARGETS, strict=True)
    ]
    assert stock.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_differentiable_losses_equal_the_stock_processors(
    loaded: LoadedModel, size: tuple[int, int]
) -> None:
    levels = pictures(size)
    rows = torch.arange(3)
    target = objective(loaded, size)
    with torch.no_grad():
        twin = target(from_levels(levels), rows, NOW).score
    stock = target.stock([levels_to_image(one) for one in levels], rows).cross_entropy()
    # The twin repeats both backends' 8-bit arithmetic; what is left is the order of float sums.
    assert twin.tolist() == pytest.approx(stock.tolist(), abs=1e-4)


def test_batched_equals_single_whatever_the_lengths(loaded_once: LoadedModel) -> None:
    size = (112, 224)
    images = from_levels(pictures(size))
    target = objective(loaded_once, size)
    leaf = images.clone().requires_grad_()
    together = target(leaf, torch.arange(3), NOW).descend
    (gradients,) = torch.autograd.grad(together.sum(), leaf)
    for row in range(3):
        alone = images[row : row + 1].clone().requires_grad_()
        loss = target(alone, torch.tensor([row]), NOW).descend
        (gradient,) = torch.autograd.grad(loss.sum(), alone)
        assert loss.item() == pytest.approx(together[row].item(), abs=1e-5)
        torch.testing.assert_close(gradient[0], gradients[row], rtol=1e-3, atol=1e-6)


def test_only_pixels_get_gradients(loaded_once: LoadedModel) -> None:
    target = objective(loaded_once, (56, 112))
    leaf = from_levels(pictures((56, 112))).requires_grad_()
    target(leaf, torch.arange(3), NOW).descend.sum().backward()
    assert leaf.grad is not None
    assert float((leaf.grad != 0).float().mean()) > 0.99
    assert all(p.grad is None and not p.requires_grad for p in loaded_once.model.parameters())
    assert not loaded_once.model.training


@pytest.mark.parametrize("size", [(112, 224), (90, 35)])
def test_attack_lowers_the_loss_and_batched_equals_single(
    loaded_once: LoadedModel, size: tuple[int, int]
) -> None:
    clean = pictures(size)
    settings = PGDSettings(rule=StepRule(step_size=4 / 255), steps=12)

    def run(rows: list[int]) -> ProjectedGradientDescent:
        target = TargetObjective(
            loaded_once,
            prompts=[PROMPTS[row] for row in rows],
            targets=[TARGETS[row] for row in rows],
            image_size=size,
        )
        pgd = ProjectedGradientDescent(
            settings,
            space=PixelSpace(clean[rows], ball=PixelBall(32 / 255)),
            objective=target,
            row_ids=[str(row) for row in rows],
        )
        while not pgd.done:
            pgd.step()
        return pgd

    together = run([0, 1, 2]).results()
    for row, result in enumerate(together):
        assert result.best_loss < result.start_loss - 0.2
        assert result.best_loss == min(result.curve)
        alone = run([row]).results()[0]
        # Signs of near-zero gradients may differ with the batch; the first steps do not.
        assert alone.curve[:3] == pytest.approx(result.curve[:3], abs=2e-2)
        assert alone.best_loss == pytest.approx(result.best_loss, abs=0.15)


def test_what_stands_before_the_image_is_computed_once(
    loaded_once: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = objective(loaded_once, (56, 112))
    ids = target.tokens.ids(torch.arange(3), start=0)
    image_id = loaded_once.base.config.image_token_id
    assert target.tokens.num_fixed == int((ids[0] == image_id).nonzero()[0]) > 1
    lengths: dict[int, list[int]] = {0: [], 1: []}
    for place, block in enumerate((loaded_once.decoder_layers[0], loaded_once.decoder_layers[-1])):
        linear = block.self_attn.q_proj

        def counted(states: Tensor, place: int = place, linear: Any = linear) -> Tensor:
            lengths[place].append(states.shape[1])
            return type(linear).forward(linear, states)

        monkeypatch.setattr(linear, "forward", counted)
    for _ in range(2):
        target(from_levels(pictures((56, 112))), torch.arange(3), NOW)
    # The last target token is predicted, not read; the last block asks only where words are wanted,
    # and of the fixed tokens it keeps keys and values alone.
    rest = ids.shape[1] - target.tokens.num_fixed - 1
    wanted = len(target.tokens.predicting(torch.arange(3)))
    assert lengths == {
        0: [target.tokens.num_fixed, rest, rest],
        1: [wanted, wanted],
    }


def test_reached_is_what_greedy_decoding_writes(loaded_once: LoadedModel) -> None:
    """A target that the model writes by itself is reached, another one is not."""
    levels = pictures((56, 112), 1)
    before = objective(loaded_once, (56, 112), 1)
    inputs = before.tokens.ids(torch.tensor([0]), start=0)
    prompt = inputs[:, : int(before.tokens.predicting(torch.tensor([0]))[0]) + 1]
    picture = levels_to_image(levels[0])
    views = loaded_once.processor.image_processor(images=[picture], return_tensors="pt")
    written = loaded_once.model.generate(
        input_ids=prompt, max_new_tokens=3, do_sample=False, eos_token_id=None, **views
    )
    # Not through text, which the tokenizer may cut into other tokens.
    own = objective(loaded_once, (56, 112), 1)
    own.tokens = TargetTokens(
        loaded_once,
        input_ids=written.tolist(),
        target_starts=[prompt.shape[1]],
        fixed_until=[before.tokens.num_fixed],
    )
    assert own.stock([picture], torch.tensor([0])).reached().all()
    with torch.no_grad():
        embedded = own.embed(from_levels(levels), torch.tensor([0]))
        assert own.force(embedded, torch.tensor([0])).reached().all()
    assert not before.stock([picture], torch.tensor([0])).reached().any()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A random model with a random adapter on it."""
    folder = make_tiny_vlm(tmp_path_factory.mktemp("vlm"))
    save_random_adapter(folder, folder / "adapter")
    return load_model(str(folder), adapter=folder / "adapter", device="cpu")


def test_the_kept_prefix_is_that_of_the_model_that_is_switched_on(adapted: LoadedModel) -> None:
    levels, rows = pictures((56, 112)), torch.arange(3)
    images = [levels_to_image(one) for one in levels]
    target = objective(adapted, (56, 112))
    seen = []
    for _ in range(2):
        with torch.no_grad():
            seen.append(target(from_levels(levels), rows, NOW).score.tolist())
        assert seen[-1] == pytest.approx(
            target.stock(images, rows).cross_entropy().tolist(), abs=1e-4
        )
        with adapted.adapter_disabled(), torch.no_grad():
            base = target(from_levels(levels), rows, NOW).score.tolist()
            stock = target.stock(images, rows).cross_entropy().tolist()
            assert base == pytest.approx(stock, abs=1e-4)
        assert base != pytest.approx(seen[-1], abs=1e-2)
    assert seen[0] == seen[1]


def test_adaptive_distance_is_that_of_two_plain_passes(adapted: LoadedModel) -> None:
    levels, rows = pictures((56, 112)), torch.arange(3)
    target = objective(adapted, (56, 112))
    adaptive = AdaptiveObjective(target, loaded=adapted, layers=(2, 4), weight=2.0, ramp=0.5)
    late = Moment(restart=0, step=5, steps=10, seed=0, row_ids=NOW.row_ids)
    with torch.no_grad():
        losses = adaptive(from_levels(levels), rows, late)
        plain = target(from_levels(levels), rows, late).score
    assert losses.score.tolist() == pytest.approx(plain.tolist(), abs=1e-5)
    for row in range(3):
        ids = target.tokens.ids(torch.tensor([row]), start=0)
        views = adapted.processor.image_processor(
            images=[levels_to_image(levels[row])], return_tensors="pt"
        )
        states = []
        for switch in (adapted.adapter_disabled, torch.no_grad):
            with torch.no_grad(), switch():
                output = adapted.model(input_ids=ids, output_hidden_states=True, **views)
            states.append(output.hidden_states)
        begin = int((ids[0] == adapted.config.image_token_id).nonzero()[-1]) + 1
        cosines = [
            F.cosine_similarity(*(one[layer][0, begin:] for one in states), dim=-1).mean()
            for layer in (2, 4)
        ]
        apart = 1 - float(sum(cosines)) / 2
        assert apart > 0.01
        added = float(losses.descend[row] - losses.score[row])
        assert added == pytest.approx(2.0 * apart, abs=1e-4)


def test_adaptive_weight_is_ramped_and_its_gradient_brings_the_models_together(
    adapted: LoadedModel,
) -> None:
    target = objective(adapted, (56, 112))
    rows = torch.arange(3)

    def make(weight: float, ramp: float) -> AdaptiveObjective:
        return AdaptiveObjective(target, loaded=adapted, layers=(4,), weight=weight, ramp=ramp)

    ramped = [
        make(3.0, 0.5).weight_at(Moment(0, step, 10, 0, NOW.row_ids)) for step in (0, 1, 5, 10)
    ]
    assert ramped == pytest.approx([0.0, 0.6, 3.0, 3.0])
    assert make(3.0, 0.0).weight_at(NOW) == 3.0

    def apart(weight: float) -> float:
        pgd = ProjectedGradientDescent(
            PGDSettings(rule=StepRule(step_size=4 / 255), steps=10),
            space=PixelSpace(pictures((56, 112)), ball=PixelBall(64 / 255)),
            objective=make(weight, 0.0),
            row_ids=["a", "b", "c"],
        )
        while not pgd.done:
            pgd.step()
        last = torch.stack([result.best for result in pgd.results()])
        with torch.no_grad():
            losses = make(1.0, 0.0)(from_levels(last), rows, NOW)
        assert {result.passes for result in pgd.results()} == {20}
        return float((losses.descend - losses.score).mean())

    assert apart(100.0) < apart(0.0)
    same = torch.randn(2, 5, 8)
    mask = torch.ones(2, 5, dtype=torch.bool)
    assert distance([(same, 3 * same)], mask).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert distance([(same, -same)], mask).tolist() == pytest.approx([2.0, 2.0], abs=1e-6)


def test_universal_is_the_mean_over_drawn_behaviors(loaded_once: LoadedModel) -> None:
    target = objective(loaded_once, (56, 112))
    image = from_levels(pictures((56, 112), 1)).requires_grad_()
    one = Moment(0, 0, 10, 0, ("picture",))
    every = UniversalObjective(target, count=3, batch=8)
    assert every.passes == 3
    losses = every(image, torch.tensor([0]), one).descend
    alone = [target(image, torch.tensor([row]), NOW).descend[0] for row in range(3)]
    assert float(losses[0].detach()) == pytest.approx(float(sum(alone).detach()) / 3, abs=1e-5)
    (gradient,) = torch.autograd.grad(losses.sum(), image)
    (expected,) = torch.autograd.grad(sum(alone) / 3, image)  # type: ignore[type-var]
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)
    some = UniversalObjective(target, count=3, batch=1)
    assert some.passes == 1
    drawn = {
        round(float(some(image.detach(), torch.tensor([0]), Moment(0, s, 9, 0, ("p",))).score), 4)
        for s in range(12)
    }
    assert drawn == {round(float(loss.detach()), 4) for loss in alone}
