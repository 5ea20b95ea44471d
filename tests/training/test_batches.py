"""Encoding, masks, padding, and a sampler that remembers nothing."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from mmcb.errors import MmcbError
from mmcb.training.batches import PixelCache, Sampler, collate, prefetched
from mmcb.training.examples import (
    EncodedExample,
    check_examples,
    encode_examples,
    find_data,
)
from tests.training.helpers import Load, encoded, read_examples, tiny_recipe


def _examples(kind: str, *, number: int, image: bool) -> list[EncodedExample]:
    return [
        EncodedExample(
            id=f"{kind}-{image}-{i}",
            kind=kind,  # type: ignore[arg-type]
            input_ids=tuple(range(5 + i % 7)),
            mask_start=1,
            image=Path(f"{i}.png") if image else None,
        )
        for i in range(number)
    ]


def _mixed() -> list[EncodedExample]:
    kinds = ("circuit_breaker", "retain")
    return [e for kind in kinds for image in (True, False)
            for e in _examples(kind, number=20, image=image)]  # fmt: skip


def _sampler(examples: list[EncodedExample], **changes: object) -> Sampler:
    settings: dict[str, object] = {"batch_sizes": (4, 6), "seed": 0, "alternate": True}
    return Sampler(examples, **{**settings, **changes})  # type: ignore[arg-type]


def test_sampler_is_a_pure_function_of_seed_and_step() -> None:
    forwards = [_sampler(_mixed()).step(step) for step in range(1, 30)]
    one = _sampler(_mixed())
    backwards = [one.step(step) for step in reversed(range(1, 30))]
    assert forwards == backwards[::-1]
    assert forwards != [_sampler(_mixed(), seed=1).step(step) for step in range(1, 30)]


def test_both_kinds_in_each_batch_and_images_alternate() -> None:
    sampler = _sampler(_mixed())
    for step in range(1, 12):
        batch = sampler.step(step)
        assert Counter(e.kind for e in batch) == {"circuit_breaker": 4, "retain": 6}
        assert {e.image is not None for e in batch} == {step % 2 == 1}


def test_without_alternation_they_mix() -> None:
    sampler = _sampler(_mixed(), alternate=False)
    assert any(len({e.image is None for e in sampler.step(step)}) == 2 for step in range(1, 6))


def test_a_kind_without_images_stands_in_every_batch() -> None:
    examples = _examples("circuit_breaker", number=9, image=False) + [
        e for e in _mixed() if e.kind == "retain"
    ]
    sampler = _sampler(examples)
    for step in range(1, 8):
        kinds = {(e.kind, e.image is not None) for e in sampler.step(step)}
        assert kinds == {("circuit_breaker", False), ("retain", step % 2 == 1)}


def test_an_epoch_shows_every_example_once() -> None:
    examples = _examples("circuit_breaker", number=20, image=False)
    sampler = _sampler(examples)
    seen = Counter(e.id for step in range(1, 6) for e in sampler.step(step))
    assert seen == {e.id: 1 for e in examples}


def test_a_step_has_the_same_examples_however_it_is_split() -> None:
    whole = _sampler(_mixed(), batch_sizes=(12, 12))
    for size, accumulation in ((4, 3), (6, 2), (1, 12)):
        split = _sampler(_mixed(), batch_sizes=(size, size), accumulation=accumulation)
        for step in range(1, 6):
            batches = split.batches(step)
            assert [len(batch) for batch in batches] == [2 * size] * accumulation
            ids = Counter(e.id for batch in batches for e in batch)
            assert ids == Counter(e.id for e in whole.step(step)) == dict.fromkeys(ids, 1)
            assert ids == Counter(e.id for e in split.step(step))


def test_more_batches_than_examples_are_refused() -> None:
    with pytest.raises(MmcbError, match="5 batches a step, and at most 4 examples"):
        _sampler(_examples("retain", number=4, image=False), accumulation=5)


def test_fewer_examples_than_a_batch_are_told(caplog: pytest.LogCaptureFixture) -> None:
    examples = _examples("retain", number=2, image=False)
    assert {e.id for e in _sampler(examples).step(5)} == {e.id for e in examples}
    assert "2 retain examples: a step has no more, instead of" in caplog.text


def test_batches_hold_examples_of_similar_length() -> None:
    examples = [EncodedExample(str(i), "retain", tuple(range(10 + i)), 1, None) for i in range(64)]
    sampler = _sampler(examples, batch_sizes=(8, 8))
    spread = [
        max(map(len, lengths)) - min(map(len, lengths))
        for step in range(1, 9)
        if (lengths := [e.input_ids for e in sampler.step(step)])
    ]
    assert max(spread) == 7


def test_masks_and_right_padding(load: Load, data_folder: Path) -> None:
    loaded = load("vlm")
    pixels = PixelCache(loaded)
    for mask in ("all", "after_image", "completion"):
        recipe = tiny_recipe(loaded, mask=mask, retain_mask=mask)
        examples = encoded(data_folder, loaded, recipe).examples
        batch = collate(examples, pixels=pixels, pad_id=0)
        assert batch.pixel_values is not None
        assert batch.pixel_values.shape[0] == sum(e.image is not None for e in examples)
        marks = {"circuit_breaker": batch.rerouted, "retain": batch.retained}
        masks = {}
        for kind, places in marks.items():
            masks[kind] = torch.zeros(batch.input_ids.numel(), dtype=torch.bool)
            masks[kind][places] = True
        for row, example in enumerate(examples):
            length = len(example.input_ids)
            own = {kind: mask.view_as(batch.input_ids) for kind, mask in masks.items()}
            counted = own.pop(example.kind)[row]
            assert not next(iter(own.values()))[row].any()
            assert not counted[0]  # BOS
            assert not counted[length:].any()
            assert batch.attention_mask[row].tolist() == [1] * length + [0] * (
                len(batch.attention_mask[row]) - length
            )
            text = loaded.tokenizer.decode(batch.input_ids[row][counted])
            assert text.endswith(".</s>")
            assert ("<image>" in text) == (mask == "all" and example.image is not None)
            assert ("how do i" in text) == (mask != "completion")


def test_cutting_keeps_the_image_whole(load: Load, data_folder: Path) -> None:
    loaded = load("vlm")
    recipe = tiny_recipe(loaded, mask="after_image", max_length=8)
    image_id = loaded.base.config.image_token_id
    for example in encoded(data_folder, loaded, recipe).examples:
        after = example.input_ids[example.mask_start :]
        assert image_id not in after
        assert len(after) <= 8


def test_examples_beyond_the_models_context_are_told(
    load: Load, data_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load("llm")
    recipe = tiny_recipe(loaded)
    lengths = sorted(len(e.input_ids) for e in encoded(data_folder, loaded, recipe).examples)
    loaded.decoder.config.max_position_embeddings = lengths[-3]
    assert "longer" not in caplog.text
    encoded(data_folder, loaded, recipe)
    longer = sum(length > lengths[-3] for length in lengths)
    assert f"{longer} examples are longer than the {lengths[-3]} tokens" in caplog.text


def test_a_language_model_leaves_out_images_and_says_how_many(
    load: Load, data_folder: Path
) -> None:
    loaded = load("llm")
    found = encoded(data_folder, loaded, tiny_recipe(loaded))
    assert all(e.image is None for e in found.examples)
    assert len(found.examples) == 12
    assert found.left_out == {"image, and the model takes none": 12}


def test_an_unreadable_image_is_left_out_and_counted(load: Load, data_folder: Path) -> None:
    loaded = load("vlm")
    pairs = read_examples(data_folder)
    broken = [
        (path, example.model_copy(update={"image": "missing.png"} if example.image else {}))
        for path, example in pairs
    ]
    found = encode_examples(
        broken, loaded, split="train", max_length=64,
        masks={"circuit_breaker": "all", "retain": "all"},
    )  # fmt: skip
    assert found.left_out == {"image that cannot be read": 12}
    check_examples(found, origin={"circuit_breaker": "x", "retain": "y"}, model="tiny")


def test_pixels_are_the_stock_processors_and_cached(load: Load, data_folder: Path) -> None:
    from mmcb.generation.images import open_image

    loaded = load("vlm")
    cache = PixelCache(loaded, max_bytes=1)
    first, size = cache(data_folder / "dog.png")
    stock = loaded.processor(
        images=open_image(data_folder / "dog.png"), text="<image>", return_tensors="pt"
    )
    assert torch.equal(first, stock["pixel_values"][0])
    assert torch.equal(size, stock["image_sizes"][0])
    assert cache(data_folder / "dog.png")[0] is first
    cache(data_folder / "cat.png")  # over the limit: the older one goes
    assert cache(data_folder / "dog.png")[0] is not first


def test_no_data_says_what_to_run(tmp_path: Path) -> None:
    for wanted in (None, tmp_path):
        with pytest.raises(MmcbError) as caught:
            find_data(wanted, root=tmp_path)
        assert caught.value.hint is not None
        assert caught.value.hint.startswith("python -m mmcb.miniature && python -m mmcb.synthesis")


def test_prefetching_keeps_the_order_and_passes_errors_on() -> None:
    def make(step: int) -> int:
        if step == 4:
            raise MmcbError("broken image")
        return 10 * step

    batches = prefetched(make, range(1, 9))
    assert [next(batches) for _ in range(3)] == [10, 20, 30]
    with pytest.raises(MmcbError, match="broken image"):
        next(batches)
