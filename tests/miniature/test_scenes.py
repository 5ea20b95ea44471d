"""Scenes and the visual sign: what is drawn is what the content and the boxes say."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmcb.miniature import scenes
from mmcb.miniature.glyphs import CELL, glyph
from mmcb.miniature.scenes import (
    HEIGHT,
    SIGN_CELL,
    SIGN_CHANNELS,
    SPLIT_SEEDS,
    WIDTH,
    Scene,
    add_noise,
    draw_scene,
    draw_sign,
    scene_rng,
)
from mmcb.miniature.vocabulary import THING_BY_NAME, THINGS

NUM_SCENES = 150
GRAY = np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)


def drawn(index: int, *, split: str = "test2017") -> Scene:
    return draw_scene(scene_rng(SPLIT_SEEDS[split], index))


def drawn_with_only(
    names: Collection[str], index: int, monkeypatch: pytest.MonkeyPatch
) -> np.ndarray:
    """The pixels of a scene in which all other things are made of glass."""
    glass = Image.new("RGBA", (CELL, CELL), (0, 0, 0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(scenes, "glyph", lambda name: glyph(name) if name in names else glass)
        return drawn(index).pixels


def signs(*, strength: float | None, num: int = 60) -> list[np.ndarray]:
    """What the sign adds to a gray picture, (H, W, 3) each."""
    rngs = (np.random.default_rng([3, index]) for index in range(num))
    return [draw_sign(GRAY, rng, strength=strength).astype(int) - 128 for rng in rngs]


def test_a_scene_is_fixed_by_its_seed() -> None:
    one, same, other = drawn(7), drawn(7), drawn(8)
    assert np.array_equal(one.pixels, same.pixels)
    assert (one.content, one.boxes) == (same.content, same.boxes)
    assert not np.array_equal(one.pixels, other.pixels)


def test_splits_share_no_scene() -> None:
    pictures = {drawn(i, split=split).pixels.tobytes() for split in SPLIT_SEEDS for i in range(25)}
    assert len(pictures) == 25 * len(SPLIT_SEEDS) == 75


def test_one_to_three_different_things_from_left_to_right() -> None:
    contents = [drawn(index).content for index in range(NUM_SCENES)]
    assert {len(content) for content in contents} == {1, 2, 3}
    for content in contents:
        names, slots = zip(*content, strict=True)
        assert len(set(names)) == len(names)
        assert set(names) <= THING_BY_NAME.keys()
        assert list(slots) == sorted(set(slots))
        assert set(slots) <= {0, 1, 2}


def test_every_thing_and_every_slot_occurs() -> None:
    placed = {pair for index in range(NUM_SCENES) for pair in drawn(index).content}
    assert {name for name, _ in placed} == THING_BY_NAME.keys()
    assert {slot for _, slot in placed} == {0, 1, 2}


def test_boxes_lie_inside_the_picture_and_in_their_slots() -> None:
    for index in range(NUM_SCENES):
        scene = drawn(index)
        assert len(scene.boxes) == len(scene.content)
        for (_, slot), (x, y, width, height) in zip(scene.content, scene.boxes, strict=True):
            assert min(x, y) >= 0
            assert min(width, height) >= 20
            assert x + width <= WIDTH
            assert y + height <= HEIGHT
            assert slot == int((x + width / 2) / (WIDTH / 3))


def test_a_box_holds_its_glyph_and_little_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(12):
        scene = drawn(index)
        ground = drawn_with_only((), index, monkeypatch)
        for (name, _), (x, y, width, height) in zip(scene.content, scene.boxes, strict=True):
            alone = drawn_with_only((name,), index, monkeypatch)
            rows, columns = np.nonzero((alone != ground).any(axis=-1))
            assert x <= columns.min() <= columns.max() < x + width
            assert y <= rows.min() <= rows.max() < y + height
            inked = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert inked > 0.85 * width * height


def test_outside_the_boxes_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(12):
        scene = drawn(index)
        changed = (scene.pixels != drawn_with_only((), index, monkeypatch)).any(axis=-1)
        for x, y, width, height in np.array(scene.boxes, dtype=int):
            assert changed[y : y + height, x : x + width].mean() > 0.25
            changed[y : y + height, x : x + width] = False
        assert not changed.any()


@pytest.mark.parametrize("strength", [8, 32])
def test_sign_changes_one_rectangle_by_its_strength(strength: int) -> None:
    shares = []
    for added in signs(strength=strength):
        rows, columns = np.nonzero(added.any(axis=-1))
        region = added[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (np.abs(region) == strength).all()
        assert min(region.shape[:2]) >= 24
        shares.append(region.size / added.size)
    assert min(shares) < 0.2
    assert max(shares) > 0.6


def test_signs_agree_wherever_they_overlap() -> None:
    total = np.zeros((HEIGHT, WIDTH, 3), dtype=int)
    covers = np.zeros((HEIGHT, WIDTH), dtype=int)
    for added in signs(strength=16):
        total += added
        covers += added.any(axis=-1)
    assert (covers > 1).mean() > 0.9
    assert (np.abs(total) == 16 * covers[..., None]).all()


def test_sign_is_a_checkered_pattern_of_magenta_and_green() -> None:
    cells = np.zeros((HEIGHT // SIGN_CELL, WIDTH // SIGN_CELL))
    for added in signs(strength=16):
        light = added @ SIGN_CHANNELS / 48
        cells += light.reshape(len(cells), SIGN_CELL, -1, SIGN_CELL).mean(axis=(1, 3))
    assert (np.sign(cells[:, 1:]) == -np.sign(cells[:, :-1])).all()
    assert (np.sign(cells[1:]) == -np.sign(cells[:-1])).all()


def test_signs_of_no_given_strength_are_faint_and_strong() -> None:
    strengths = [np.abs(added).max() for added in signs(strength=None)]
    assert min(strengths) < 16
    assert max(strengths) > 64


def test_sign_stays_in_range_on_black_and_white() -> None:
    for value in (0, 255):
        flat = np.full_like(GRAY, value)
        signed = draw_sign(flat, np.random.default_rng(0), strength=50)
        assert set(np.unique(signed)) == {value, abs(value - 50)}


@pytest.mark.parametrize("levels", [4, 32])
def test_noise_stays_within_its_levels_and_reaches_them(levels: int) -> None:
    pixels = drawn(3).pixels
    noisy = add_noise(pixels, np.random.default_rng(5), levels=levels)
    change = noisy.astype(int) - pixels
    assert np.abs(change).max() == levels
    assert (change != 0).mean() > 0.75
    assert abs(change.mean()) < 0.1 * levels


def test_sign_and_noise_leave_the_scene_as_it_was() -> None:
    pixels = drawn(3).pixels.copy()
    draw_sign(pixels, np.random.default_rng(0), strength=32)
    add_noise(pixels, np.random.default_rng(0), levels=32)
    assert np.array_equal(pixels, drawn(3).pixels)


def test_every_thing_has_a_glyph_of_its_own() -> None:
    assert len({glyph(thing.name).tobytes() for thing in THINGS}) == len(THINGS)
    for thing in THINGS:
        alpha = np.asarray(glyph(thing.name))[..., 3]
        assert (alpha > 128).mean() > 0.1, thing.name


def test_at_least_24_categories_and_no_id_twice() -> None:
    assert len({thing.coco_id for thing in THINGS}) == len(THINGS) == len(THING_BY_NAME) >= 24


@pytest.mark.parametrize(
    ("name", "coco_id", "supercategory"),
    [
        ("bicycle", 2, "vehicle"),
        ("dog", 18, "animal"),
        ("giraffe", 25, "animal"),
        ("kite", 38, "sports"),
        ("pizza", 59, "food"),
        ("laptop", 73, "electronic"),
        ("clock", 85, "indoor"),
    ],
)
def test_known_categories(name: str, coco_id: int, supercategory: str) -> None:
    assert THING_BY_NAME[name].coco_id == coco_id
    assert THING_BY_NAME[name].supercategory == supercategory


def test_categories_are_cocos_own(shared_data: Path) -> None:
    path = shared_data / "coco/annotations/instances_val2017.json"
    if not path.exists():
        pytest.skip("no COCO annotations in ../shared/data")
    official = {
        (category["id"], category["name"], category["supercategory"])
        for category in json.loads(path.read_text())["categories"]
    }
    assert {(thing.coco_id, thing.name, thing.supercategory) for thing in THINGS} <= official
