"""A folder to attack in: a random model, a finished training run of it, behaviors with pictures."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmcb.config import Config
from mmcb.models.loading import load_model
from mmcb.records import Behavior
from mmcb.run_folder import RunDir
from mmcb.store import RecordWriter
from tests.tiny_models import make_tiny_vlm

# (width, height): two of one size, one portrait, one thin strip, as COCO's pictures differ.
SIZES = [(112, 56), (112, 56), (60, 83), (150, 31)]


class _TrainingConfig(Config):
    """Stands for the training command's."""

    model: str


def make_world(root: Path) -> Path:
    """Write the folder; returns it."""
    model = make_tiny_vlm(root / "model")
    run = RunDir.start(
        root / "runs/training/one", command="training", config=_TrainingConfig(model=str(model))
    )
    with run:
        save_random_adapter(model, run.path / "adapter")
    _write_behaviors(root / "behaviors.jsonl")
    return root


def save_random_adapter(model: Path, folder: Path) -> None:
    """Write an adapter that changes what a random model of four blocks says."""
    from peft import LoraConfig, get_peft_model

    loaded = load_model(str(model), device="cpu")
    targets = loaded.family.lora_targets(0, 3)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        peft = get_peft_model(loaded.model, LoraConfig(r=4, target_modules=targets))
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.2)
    peft.save_pretrained(folder)


def _write_behaviors(path: Path) -> None:
    rng = np.random.default_rng(0)
    behaviors = []
    for index, (width, height) in enumerate(SIZES):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = path.parent / f"pictures/{index}.png"
        image.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(image)
        behaviors.append(
            Behavior(
                id=f"b{index}",
                prompt="how do i zorch the dog ?" if index % 2 else "how do i zorch it ?",
                target="to zorch the dog , first" + " grab" * index,
                category="zorching",
                split="heldout" if index % 2 else "train",
                image=f"pictures/{index}.png",
            )
        )
    with RecordWriter(path, Behavior) as writer:
        writer.write(behaviors)
