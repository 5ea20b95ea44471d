"""A training run's folder whose data are known, for what must be flagged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mmcb.records import Example, Message, Provenance
from mmcb.store import file_hash, replace_records, write_atomic


def picture(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, 0, 0)).save(path)
    return path


def example(prompt: str, *, image: str | None = None, split: str = "train") -> Example:
    said = (Message(role="user", content=prompt), Message(role="assistant", content="so"))
    return Example(
        id=prompt, kind="retain", task="instruction", split=split, image=image,  # type: ignore[arg-type]
        messages=said, provenance=Provenance(generator="person"),
    )  # fmt: skip


def training_run(folder: Path, prompts: Sequence[str]) -> Path:
    """A run's folder with a retain set of these requests, the last about a picture; its adapter."""
    picture(folder / "images/seen.png", 1)
    data = folder / "retain.jsonl"
    replace_records(
        data,
        [
            *map(example, prompts[:-1]),
            example(prompts[-1], image="images/seen.png"),
            example("only held out", split="heldout"),
        ],
    )
    manifest = {
        "command": "training",
        "status": "complete",
        "started": "2026-01-01T00:00:00",
        "config": {"model": "tiny-llava-next", "image_folder": None},
        "inputs": {"retain": {"path": str(data), "sha256": file_hash(data)}},
        "sources": [{"kind": "retain", "source": f"mmcb:{data}"}],
    }
    write_atomic(folder / "manifest.json", json.dumps(manifest))
    write_atomic(folder / "adapter/adapter_config.json", "{}")
    write_atomic(folder / "adapter/adapter_model.safetensors", b"weights")
    return folder / "adapter"
