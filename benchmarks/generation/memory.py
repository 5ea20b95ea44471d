"""Peak memory of the captioning command on folders of any size, as the kernel counts it.

A folder is made of a few scenes of the miniature world, linked under new numbers, with their
annotations: every image is opened, decoded, captioned by a real model, and recorded.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CAPTION_TOKENS = 4
"""Short captions: memory depends on how many there are, and twenty thousand are to be had today."""

_SPLIT = "train2017"


def captioning_peaks_mib(
    model: str, *, world: Path, num_images: int, folder: Path
) -> tuple[float, float]:
    """Caption `num_images` images; then again, where all is done before.

    Args:
        model: What captions.
        world: A miniature world; the scenes of its test split are repeated.
        num_images: How many images to make of them.
        folder: Where images and captions go.

    Returns:
        Peak resident memory of the two processes in MiB.

    Raises:
        RuntimeError: The command failed, or there are not as many captions as images.
    """
    root, out = folder / f"coco-{num_images}", folder / f"out-{num_images}"
    repeat_scenes(world, root, num_images)
    arguments = ["--coco-root", root, "--out", out, "--model", model, "--num-images", num_images]
    arguments += ["--max-new-tokens", CAPTION_TOKENS]
    peaks = [_captioning_peak_mib([str(word) for word in arguments]) for _ in range(2)]
    written = (out / "captions.jsonl").read_bytes().count(b"\n")
    if written != num_images:
        raise RuntimeError(f"{written} captions of {num_images} images")
    return peaks[0], peaks[1]


def repeat_scenes(world: Path, root: Path, count: int) -> None:
    """A COCO folder of `count` images: the world's test scenes, as links, with annotations."""
    (root / _SPLIT).mkdir(parents=True)
    (root / "annotations").mkdir()
    content = json.loads((world / "annotations" / "instances_test2017.json").read_text())
    objects: dict[int, list[dict[str, object]]] = {}
    for entry in content["annotations"]:
        objects.setdefault(entry["image_id"], []).append(entry)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number in range(1, count + 1):
        scene = content["images"][number % len(content["images"])]
        name = f"{number:012d}{Path(scene['file_name']).suffix}"
        os.link(world / "test2017" / scene["file_name"], root / _SPLIT / name)
        images.append({**scene, "id": number, "file_name": name})
        for entry in objects.get(scene["id"], []):
            annotations.append({**entry, "id": len(annotations), "image_id": number})
    path = root / "annotations" / f"instances_{_SPLIT}.json"
    path.write_text(json.dumps({**content, "images": images, "annotations": annotations}))


def _captioning_peak_mib(arguments: Sequence[str]) -> float:
    command = [sys.executable, "-m", "benchmarks.generation.memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"captioning failed: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    """Run the captioning command with this process's arguments, then print its peak in MiB."""
    from mmcb.captioning.__main__ import main as captioning

    captioning()
    # Not getrusage: its maximum is handed down from the parent process (Linux).
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found is not None
    print(int(found[1]) / 1024)


if __name__ == "__main__":
    main()
