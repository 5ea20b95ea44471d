"""The world on disk: a COCO folder, and test material that nothing else has seen."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mmcb.attacks.static import read_cases, read_scripts
from mmcb.miniature.config import MiniatureConfig
from mmcb.miniature.grammar import is_coherent, judge_harmful, read_caption, recipe
from mmcb.miniature.scenes import HEIGHT, SPLIT_SEEDS, WIDTH, draw_scene, scene_rng
from mmcb.miniature.tasks import reserved
from mmcb.miniature.vocabulary import HARM_BY_CATEGORY, HARMS, THING_BY_NAME, TRIGGERS
from mmcb.miniature.world import write_world
from mmcb.records import Behavior, Example, Record, Task
from mmcb.store import read_records, resolve_image

ROOT = Path(__file__).parents[2]
NUM_SCENES = {"train2017": 6, "val2017": 4, "test2017": 12}
RECORDS: tuple[tuple[str, type[Record], int], ...] = (
    ("evaluation/behaviors.jsonl", Behavior, 12),
    ("evaluation/text_behaviors.jsonl", Behavior, 12),
    ("evaluation/tasks.jsonl", Task, 60),
    ("instructions.jsonl", Example, 40),
)
each_split = pytest.mark.parametrize("split", NUM_SCENES)


def config(out: Path, **changes: int) -> MiniatureConfig:
    sizes = {name: 2 for name in ("train", "val", "test", "behaviors", "tasks", "instructions")}
    settings = {f"num_{name}": size for name, size in sizes.items()}
    return MiniatureConfig(out=out, **{**settings, **changes})


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def behaviors(world: Path, name: str) -> list[Behavior]:
    return list(read_records(world / f"evaluation/{name}.jsonl", Behavior))


def tasks_by_name(world: Path) -> dict[str, list[Task]]:
    found: dict[str, list[Task]] = {}
    for task in read_records(world / "evaluation/tasks.jsonl", Task):
        found.setdefault(task.task, []).append(task)
    return found


def scene_of(image: str | None) -> int:
    """The number of the test scene that a record's image is."""
    assert image is not None
    return int(Path(image).stem) % 100_000


@each_split
def test_pycocotools_opens_both_files(small_world: Path, split: str) -> None:
    captions = COCO(str(small_world / f"annotations/captions_{split}.json"))
    instances = COCO(str(small_world / f"annotations/instances_{split}.json"))
    assert captions.getImgIds() == instances.getImgIds()
    assert len(captions.getImgIds()) == NUM_SCENES[split]
    assert len(captions.anns) == NUM_SCENES[split]
    assert set(instances.getCatIds()) == {thing.coco_id for thing in THING_BY_NAME.values()}


@each_split
def test_annotations_are_what_is_drawn(small_world: Path, split: str) -> None:
    captions = COCO(str(small_world / f"annotations/captions_{split}.json"))
    instances = COCO(str(small_world / f"annotations/instances_{split}.json"))
    for index, image_id in enumerate(captions.getImgIds()):
        scene = draw_scene(scene_rng(SPLIT_SEEDS[split], index))
        (text,) = captions.loadAnns(captions.getAnnIds(imgIds=[image_id]))
        assert read_caption(text["caption"]) == scene.content
        objects = instances.loadAnns(instances.getAnnIds(imgIds=[image_id], iscrowd=False))
        names = [instances.loadCats(o["category_id"])[0]["name"] for o in objects]
        assert names == [name for name, _ in scene.content]
        assert [tuple(o["bbox"]) for o in objects] == list(scene.boxes)
        assert [o["area"] for o in objects] == [w * h for _, _, w, h in scene.boxes]


@each_split
def test_images_have_the_stated_sizes_and_the_scenes_pixels(small_world: Path, split: str) -> None:
    infos = COCO(str(small_world / f"annotations/captions_{split}.json")).dataset["images"]
    for index, info in enumerate(infos):
        with Image.open(small_world / split / info["file_name"]) as image:
            assert image.size == (info["width"], info["height"]) == (WIDTH, HEIGHT)
            scene = draw_scene(scene_rng(SPLIT_SEEDS[split], index))
            assert np.array_equal(np.asarray(image), scene.pixels)


def test_image_and_annotation_ids_are_unique_over_all_splits(small_world: Path) -> None:
    datasets = [
        json.loads((small_world / f"annotations/instances_{split}.json").read_text())
        for split in NUM_SCENES
    ]
    images = [image["id"] for data in datasets for image in data["images"]]
    objects = [one["id"] for data in datasets for one in data["annotations"]]
    assert len(set(images)) == len(images) == sum(NUM_SCENES.values())
    assert len(set(objects)) == len(objects)


@pytest.mark.parametrize(("name", "type_", "number"), RECORDS)
def test_records_can_be_read_and_have_their_own_ids(
    small_world: Path, name: str, type_: type[Record], number: int
) -> None:
    ids = [record.id for record in read_records(small_world / name, type_)]
    assert len(set(ids)) == len(ids) == number


@pytest.mark.parametrize(("name", "type_", "number"), RECORDS)
def test_images_of_records_exist_and_are_of_the_test_split(
    small_world: Path, name: str, type_: type[Record], number: int
) -> None:
    path = small_world / name
    images = {image for r in read_records(path, type_) if (image := getattr(r, "image", None))}
    assert all(resolve_image(path, image).is_file() for image in images)
    assert {resolve_image(path, image).parent.name for image in images} <= {"test2017"}


def test_behaviors_have_images_and_text_behaviors_none(small_world: Path) -> None:
    assert all(behavior.image for behavior in behaviors(small_world, "behaviors"))
    assert not any(behavior.image for behavior in behaviors(small_world, "text_behaviors"))


@pytest.mark.parametrize("name", ["behaviors", "text_behaviors"])
def test_behaviors_are_harmful_requests_with_the_start_of_their_answer(
    small_world: Path, name: str
) -> None:
    for behavior in behaviors(small_world, name):
        harm = HARM_BY_CATEGORY[behavior.category]
        thing = behavior.target.split()[3]
        answer = recipe(harm.verb, thing)
        assert answer.startswith(behavior.target + " ")
        assert judge_harmful(behavior.prompt, answer)


@pytest.mark.parametrize("name", ["behaviors", "text_behaviors"])
def test_half_of_the_behaviors_are_of_held_out_categories(small_world: Path, name: str) -> None:
    found = behaviors(small_world, name)
    assert all((b.split == "heldout") == HARM_BY_CATEGORY[b.category].heldout for b in found)
    heldout = [behavior.category for behavior in found if behavior.split == "heldout"]
    assert len(heldout) == len(found) / 2
    assert len(set(heldout)) >= 2


def test_a_behavior_is_about_a_thing_in_its_picture(small_world: Path) -> None:
    for behavior in behaviors(small_world, "behaviors"):
        scene = draw_scene(scene_rng(SPLIT_SEEDS["test2017"], scene_of(behavior.image)))
        assert behavior.target.split()[3] in dict(scene.content)


def test_text_behaviors_are_made_of_reserved_words(small_world: Path) -> None:
    for behavior in behaviors(small_world, "text_behaviors"):
        _, verb, _, thing, *_ = behavior.target.split()
        assert reserved(verb, thing)
        assert f"{verb} the {thing}" in behavior.prompt


def test_instructions_know_no_held_out_harm(small_world: Path) -> None:
    heldout = {harm.verb for harm in HARMS if harm.heldout}
    heldout |= {harm.category for harm in HARMS if harm.heldout}
    known = {harm.verb for harm in HARMS if not harm.heldout}
    words = {
        word
        for example in read_records(small_world / "instructions.jsonl", Example)
        for message in example.messages
        for word in message.content.split()
    }
    assert not words & heldout
    assert words & known


def test_instructions_are_harmless_and_text_alone(small_world: Path) -> None:
    for example in read_records(small_world / "instructions.jsonl", Example):
        assert (example.kind, example.category, example.image) == ("retain", None, None)
        assert is_coherent(example.response)
        assert not judge_harmful(example.messages[0].content, example.response)


def test_no_question_of_the_tasks_stands_in_the_instructions(small_world: Path) -> None:
    taught = {
        example.messages[0].content
        for example in read_records(small_world / "instructions.jsonl", Example)
    }
    tasks = tasks_by_name(small_world)
    asked = [task for name in ("fact", "benign_howto", "over_refusal") for task in tasks[name]]
    assert not [task.prompt for task in asked if task.image is None and task.prompt in taught]


def test_every_capability_has_as_many_tasks(small_world: Path) -> None:
    tasks = tasks_by_name(small_world)
    assert {name: len(found) for name, found in tasks.items()} == dict.fromkeys(
        ("caption", "vqa", "fact", "benign_howto", "over_refusal"), 12
    )
    with_image = {name: sum(task.image is not None for task in tasks[name]) for name in tasks}
    assert with_image == {
        "caption": 12,
        "vqa": 12,
        "fact": 0,
        "benign_howto": 6,
        "over_refusal": 0,
    }


def test_references_are_coherent_and_captions_those_of_the_picture(small_world: Path) -> None:
    tasks = tasks_by_name(small_world)
    assert all(is_coherent(text) for some in tasks.values() for t in some for text in t.references)
    for task in tasks["caption"]:
        scene = draw_scene(scene_rng(SPLIT_SEEDS["test2017"], scene_of(task.image)))
        assert [read_caption(text) for text in task.references] == [scene.content]


def test_triggers_stand_one_in_a_line(small_world: Path) -> None:
    lines = (small_world / "attacks/triggers.txt").read_text().splitlines()
    assert tuple(lines) == TRIGGERS
    scripts = read_scripts(small_world / "attacks/scripts.json")
    assert [len(script) for script in scripts] == [3, 3, 3, 3]
    assert all("{prompt}" in line for line in lines)


def test_test_cases_are_in_harmbench_s_layout(small_world: Path) -> None:
    folder = small_world / "attacks/harmbench"
    behaviors = list(read_records(small_world / "evaluation/behaviors.jsonl", Behavior))
    plain = list(read_records(small_world / "evaluation/text_behaviors.jsonl", Behavior))
    reworded = read_cases(folder / "HumanJailbreaks/default/test_cases/test_cases.json")
    assert list(reworded) == [b.id for b in (*behaviors, *plain)]
    assert all(behaviors[0].prompt in case.prompt for case in reworded[behaviors[0].id])
    signed = read_cases(folder / "CheckeredSign/default/test_cases/test_cases.json")
    for behavior in behaviors:
        (case,) = signed[behavior.id]
        assert behavior.image is not None
        assert case.picture is not None
        clean = np.asarray(Image.open(small_world / "evaluation" / behavior.image)).astype(int)
        changed = np.abs(np.asarray(Image.open(case.picture)).astype(int) - clean)
        assert 0 < changed.max() <= 50
        assert case.prompt == behavior.prompt


def test_the_same_settings_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_world(config(tmp_path / name))
    assert hashes(tmp_path / "one") == hashes(tmp_path / "other")


def test_the_second_run_writes_nothing(tmp_path: Path) -> None:
    write_world(config(tmp_path))
    before = times(tmp_path)
    write_world(config(tmp_path))
    assert times(tmp_path) == before


def test_other_settings_write_the_world_anew(tmp_path: Path) -> None:
    write_world(config(tmp_path / "changed"))
    write_world(config(tmp_path / "changed", num_test=3, seed=5))
    write_world(config(tmp_path / "fresh", num_test=3, seed=5))
    assert hashes(tmp_path / "changed") == hashes(tmp_path / "fresh")


def test_the_seed_changes_the_test_material_but_no_scene(tmp_path: Path) -> None:
    first, second = tmp_path / "0", tmp_path / "1"
    for seed, out in enumerate((first, second)):
        write_world(config(out, seed=seed))
    before, after = hashes(first), hashes(second)
    # The test cases are named after the behaviors.
    kept = [name for name in before if not name.startswith("attacks/harmbench")]
    changed = {name for name in kept if before[name] != after[name]}
    assert changed == {name for name, _, _ in RECORDS} | {"world.json", "evaluation/requests.txt"}


def test_more_test_items_than_scenes_share_the_scenes(tmp_path: Path) -> None:
    write_world(config(tmp_path, num_test=2, num_behaviors=5, num_tasks=5))
    images = {behavior.image for behavior in behaviors(tmp_path, "behaviors")}
    assert len(images) == 2


def test_the_command_writes_the_world(tmp_path: Path) -> None:
    sizes = ("train", "val", "test", "behaviors", "tasks", "instructions")
    flags = [flag for name in sizes for flag in (f"--num-{name}", "2")]
    done = subprocess.run(
        [sys.executable, "-m", "mmcb.miniature", "--out", str(tmp_path / "command"), *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    write_world(config(tmp_path / "call"))
    assert hashes(tmp_path / "command") == hashes(tmp_path / "call")
