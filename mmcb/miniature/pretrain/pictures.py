"""The pictures of pretraining: a pool of scenes, drawn once, with signs and noise put on anew."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mmcb.log import progress
from mmcb.miniature.grammar import SceneContent
from mmcb.miniature.scenes import (
    HEIGHT,
    SPLIT_SEEDS,
    WIDTH,
    add_noise,
    draw_scene,
    draw_sign,
    scene_rng,
)
from mmcb.miniature.tasks import Rng
from mmcb.miniature.vocabulary import THINGS

# Shapes: B pictures, V views of a picture, H rows, W columns.
SIGNED_SHARE, NOISY_SHARE, MAX_NOISE = 0.4, 0.4, 40.0
_CHUNK = 500


class Pool(NamedTuple):
    """Scenes of the training split, content beside pixels."""

    pixels: UInt8[np.ndarray, "N H W 3"]
    contents: list[SceneContent]


class Pictures(NamedTuple):
    """A batch of pictures as a model takes them, and what is in them."""

    pixel_values: Float[Tensor, "B V 3 h w"]
    image_sizes: Int[Tensor, "B 2"]
    contents: list[SceneContent]
    signed: list[bool]


def draw_pool(num_pictures: int, *, folder: Path) -> Pool:
    """Draws the training scenes on all cores, or reads them back from `folder`."""
    pixel_file = folder / f"scenes-{num_pictures}.npy"
    contents_file = folder / f"scenes-{num_pictures}-contents.npy"
    if contents_file.exists():
        # (name index, slot) pairs padded with -1: plain numbers, no pickle.
        table = np.load(contents_file)
        contents = [tuple((THINGS[n].name, int(s)) for n, s in row if n >= 0) for row in table]
        return Pool(np.load(pixel_file, mmap_mode="r"), contents)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.lib.format.open_memmap(
        pixel_file, mode="w+", dtype=np.uint8, shape=(num_pictures, HEIGHT, WIDTH, 3)
    )
    index_of = {thing.name: i for i, thing in enumerate(THINGS)}
    table = np.full((num_pictures, 3, 2), -1, dtype=np.int16)
    starts = range(0, num_pictures, _CHUNK)
    with ProcessPoolExecutor() as executor, progress(num_pictures, "scenes") as bar:
        draw = partial(_draw_chunk, stop=num_pictures)
        for start, scenes in zip(starts, executor.map(draw, starts), strict=True):
            for offset, (picture, content) in enumerate(scenes):
                pixels[start + offset] = picture
                for place, (name, slot) in enumerate(content):
                    table[start + offset, place] = index_of[name], slot
            bar.advance(len(scenes))
    pixels.flush()
    np.save(contents_file, table)
    return draw_pool(num_pictures, folder=folder)


def _draw_chunk(start: int, *, stop: int) -> list[tuple[UInt8[np.ndarray, "H W 3"], SceneContent]]:
    scenes = [
        draw_scene(scene_rng(SPLIT_SEEDS["train2017"], i))
        for i in range(start, min(start + _CHUNK, stop))
    ]
    return [(scene.pixels, scene.content) for scene in scenes]


def draw_pictures(pool: Pool, rng: Rng, *, num: int, image_processor: Any) -> Pictures:
    """A random batch from the pool, some with the sign, some with noise."""
    indices = rng.integers(len(pool.contents), size=num)
    signed = [bool(rng.random() < SIGNED_SHARE) for _ in indices]
    images = []
    for index, has_sign in zip(indices, signed, strict=True):
        picture = np.array(pool.pixels[index])
        if has_sign:
            picture = draw_sign(picture, rng)
        if rng.random() < NOISY_SHARE:
            picture = add_noise(picture, rng, levels=float(rng.uniform(2, MAX_NOISE)))
        images.append(torch.from_numpy(picture).permute(2, 0, 1))
    inputs = image_processor(images=images, return_tensors="pt")
    contents = [pool.contents[index] for index in indices]
    return Pictures(inputs["pixel_values"], inputs["image_sizes"], contents, signed)
