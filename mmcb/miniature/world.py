"""Writes the miniature world to disk: a COCO folder that pycocotools opens, and its test material.

Behaviors and tasks stand on scenes of the test split and on word combinations that are reserved:
neither was seen in pretraining, and neither is in the material that rerouting trains on.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from mmcb.log import get_logger, progress
from mmcb.miniature import tasks
from mmcb.miniature.cases import FOLDER, write_cases
from mmcb.miniature.config import MiniatureConfig
from mmcb.miniature.grammar import SceneContent, caption
from mmcb.miniature.scenes import HEIGHT, SPLIT_SEEDS, WIDTH, Scene, draw_scene, scene_rng
from mmcb.miniature.tasks import Rng, Turn
from mmcb.miniature.vocabulary import HARMS, SCRIPTS, THING_BY_NAME, THINGS, TRIGGERS
from mmcb.records import Behavior, Example, Message, Provenance, Task
from mmcb.store import read_records, record_id, replace_records, write_atomic

_LOG = get_logger(__name__)
_GENERATOR = "mmcb.miniature"

TaskName = Literal["caption", "vqa", "fact", "benign_howto", "over_refusal"]


def write_world(config: MiniatureConfig) -> None:
    """Writes the world that the config describes; does nothing when it is there already."""
    _write_attacks(config.out / "attacks")
    stamp = config.out / "world.json"
    settings = config.model_dump_json(indent=2, exclude={"out"})
    if stamp.exists() and stamp.read_text() == settings:
        _write_requests(config.out / "evaluation")
        write_cases(config.out)
        _LOG.info("%s is complete: nothing to do", config.out)
        return
    _clear(config.out, stamp)
    sizes = {"train2017": config.num_train, "val2017": config.num_val, "test2017": config.num_test}
    contents: list[SceneContent] = []
    with progress(sum(sizes.values()), "drawing scenes") as bar:
        for split, size in sizes.items():
            scenes = [draw_scene(scene_rng(SPLIT_SEEDS[split], index)) for index in range(size)]
            _write_split(config.out, split, scenes)
            bar.advance(size)
            contents = [scene.content for scene in scenes]
    rng = np.random.default_rng([config.seed, 11])
    folder = config.out / "evaluation"
    replace_records(
        folder / "behaviors.jsonl", list(_behaviors(rng, config.num_behaviors, contents))
    )
    replace_records(
        folder / "text_behaviors.jsonl", list(_behaviors(rng, config.num_behaviors, None))
    )
    replace_records(folder / "tasks.jsonl", list(_tasks(rng, config.num_tasks, contents)))
    _write_requests(folder)
    write_cases(config.out)
    instructions = list(_instructions(rng, config.num_instructions))
    replace_records(config.out / "instructions.jsonl", instructions)
    write_atomic(stamp, settings)
    _LOG.info(
        "wrote %s: %s scenes, behaviors, tasks, instructions", config.out, sum(sizes.values())
    )


def _write_attacks(folder: Path) -> None:
    """The persuaders' words, which do not hang on the settings: a world drawn before them too."""
    scripts = [[{"role": role, "content": text} for role, text in script] for script in SCRIPTS]
    texts = {
        "triggers.txt": "\n".join(TRIGGERS) + "\n",
        "scripts.json": json.dumps(scripts, indent=1) + "\n",
    }
    for name, text in texts.items():
        _write_if_new(folder / name, text)


def _write_if_new(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text)


def _write_requests(folder: Path) -> None:
    """What training sets must not ask: the how-to requests of the evaluation, one a line."""
    behaviors = [
        behavior.prompt
        for name in ("behaviors.jsonl", "text_behaviors.jsonl")
        for behavior in read_records(folder / name, Behavior)
    ]
    harmless = [
        task.prompt
        for task in read_records(folder / "tasks.jsonl", Task)
        if task.task == "benign_howto"
    ]
    _write_if_new(folder / "requests.txt", "\n".join(sorted({*behaviors, *harmless})) + "\n")


def _clear(root: Path, stamp: Path) -> None:
    """Removes a world of other settings, its mark of completeness first."""
    if stamp.exists():
        stamp.unlink()
        for split in SPLIT_SEEDS:
            shutil.rmtree(root / split, ignore_errors=True)
        shutil.rmtree(root / "attacks" / FOLDER, ignore_errors=True)


def _image_name(split: str, index: int) -> str:
    return f"{(SPLIT_SEEDS[split] + 1) * 100_000 + index:012d}.png"


def _write_split(root: Path, split: str, scenes: list[Scene]) -> None:
    """One image folder with its captions_*.json and instances_*.json in COCO's format."""
    (root / split).mkdir(parents=True, exist_ok=True)
    images, captions, instances = [], [], []
    for index, scene in enumerate(scenes):
        name = _image_name(split, index)
        image_id = int(name.removesuffix(".png"))
        Image.fromarray(scene.pixels).save(root / split / name)
        images.append(
            {"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 1}
        )
        captions.append({"id": image_id, "image_id": image_id, "caption": caption(scene.content)})
        for (thing, slot), (x, y, width, height) in zip(scene.content, scene.boxes, strict=True):
            instances.append(
                {
                    "id": image_id * 10 + slot,
                    "image_id": image_id,
                    "category_id": THING_BY_NAME[thing].coco_id,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [],
                }
            )
    common = {
        "info": {"description": f"mmcb miniature world, {split}", "version": "1"},
        "licenses": [{"id": 1, "name": "Apache-2.0; glyphs: Noto Color Emoji, SIL OFL 1.1"}],
        "images": images,
    }
    categories = [
        {"id": thing.coco_id, "name": thing.name, "supercategory": thing.supercategory}
        for thing in THINGS
    ]
    annotations = root / "annotations"
    annotations.mkdir(parents=True, exist_ok=True)
    write_atomic(
        annotations / f"captions_{split}.json", json.dumps({**common, "annotations": captions})
    )
    write_atomic(
        annotations / f"instances_{split}.json",
        json.dumps({**common, "annotations": instances, "categories": categories}),
    )


def _behaviors(rng: Rng, num: int, contents: list[SceneContent] | None) -> Iterator[Behavior]:
    """Harmful requests; every second one of a held-out category. With contents, about pictures."""
    for index in range(num):
        heldout = index % 2 == 1
        harms = tuple(harm for harm in HARMS if harm.heldout == heldout)
        scene = index % len(contents) if contents else None
        content = contents[scene] if contents and scene is not None else None
        request = tasks.harmful_request(rng, content, test=True, harms=harms)
        yield Behavior(
            id=record_id("behavior", "text" if content is None else "image", index, request.prompt),
            prompt=request.prompt,
            target=request.target,
            category=request.harm.category,
            split="heldout" if heldout else "train",
            image=None if scene is None else f"../test2017/{_image_name('test2017', scene)}",
        )


def _tasks(rng: Rng, num: int, contents: list[SceneContent]) -> Iterator[Task]:
    """`num` items of each capability, all from the test split or in reserved words."""
    for index in range(num):
        scene = index % len(contents)
        content = contents[scene]
        image = f"../test2017/{_image_name('test2017', scene)}"
        howto_image = image if index % 2 else None
        turns: dict[TaskName, tuple[Turn, str | None]] = {
            "caption": (tasks.caption_turn(content, rng), image),
            "vqa": (tasks.question_turn(content, rng), image),
            "fact": (tasks.fact_turn(rng, test=True), None),
            "benign_howto": (_howto(rng, content if howto_image else None), howto_image),
            "over_refusal": (tasks.borderline_turn(rng, test=True), None),
        }
        for name, (turn, path) in turns.items():
            yield Task(
                id=record_id("task", name, index, turn.prompt),
                task=name,
                prompt=turn.prompt,
                references=(turn.response,),
                image=path,
            )


def _howto(rng: Rng, content: SceneContent | None) -> Turn:
    """A how-to in reserved words; about a picture, any words will do, for the scene is new."""
    return tasks.howto_turn(rng, content, test=content is None)


def _instructions(rng: Rng, num: int) -> Iterator[Example]:
    """Text-only retain examples in words of the training split, no held-out harm among them."""
    known = tuple(harm for harm in HARMS if not harm.heldout)
    for index in range(num):
        draw = index % 5
        if draw < 3:
            turn = tasks.fact_turn(rng)
        elif draw == 3:
            turn = tasks.howto_turn(rng)
        else:
            turn = tasks.borderline_turn(rng, harms=known)
        yield Example(
            id=record_id("instruction", index, turn.prompt),
            kind="retain",
            task="instruction",
            category=None,
            split="heldout" if index % 10 == 9 else "train",
            image=None,
            messages=(
                Message(role="user", content=turn.prompt),
                Message(role="assistant", content=turn.response),
            ),
            provenance=Provenance(generator=_GENERATOR, seed=index),
        )
