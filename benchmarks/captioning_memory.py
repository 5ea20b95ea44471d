"""Peak memory and throughput of captioning against the size of the folder.

    python -m benchmarks.captioning_memory --images 1000 20000 --folder runs/captioning_memory

Draws 200 scenes of the miniature world, repeats them under new numbers up to each size, and
captions each folder in a process of its own. The captions come from a stand-in that writes one
fixed sentence: what is measured is everything but the model, that is the folder, COCO's
annotations, decoding, records and resuming. The last run finds everything done.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmcb.captioning.caption import caption_images
from mmcb.captioning.config import CaptioningConfig
from mmcb.generation.protocol import Completion, Request, Sampling
from mmcb.miniature.config import MiniatureConfig
from mmcb.miniature.world import write_world


class StandIn:
    """Answers everything with the same sentence."""

    name = "stand-in"
    revision: str | None = None

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        """A batch of that sentence at a time."""
        text = "a dog on the left of a cup , and a bus behind both of them ."
        for start in range(0, len(requests), sampling.batch_size):
            batch = requests[start : start + sampling.batch_size]
            yield [Completion(request.id, text, "stop", 16) for request in batch]


def caption(root: Path, out: Path, *, num_images: int | None) -> None:
    """Caption, and print the seconds and the process's peak memory in MB."""
    began = time.monotonic()
    config = CaptioningConfig(
        coco_root=root, out=out, splits=("train2017",), num_images=num_images, batch_size=32
    )
    caption_images(config, make=lambda name: StandIn())
    seconds = time.monotonic() - began
    # Not getrusage: its maximum is handed down from the parent process (Linux).
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 1024  # type: ignore[index]
    print(f"{seconds:.1f} {peak:.1f}")


def repeat(world: Path, root: Path, count: int) -> None:
    """A COCO folder of `count` images: those of `world`, as links, with their annotations."""
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    for kind in ("captions", "instances"):
        content = json.loads((world / "annotations" / f"{kind}_train2017.json").read_text())
        said: dict[int, list[dict[str, object]]] = {}
        for entry in content["annotations"]:
            said.setdefault(entry["image_id"], []).append(entry)
        scenes, images, annotations = content["images"], [], []
        for number in range(1, count + 1):
            scene = scenes[number % len(scenes)]
            name = f"{number:012d}.png"
            images.append({**scene, "id": number, "file_name": name})
            for entry in said.get(scene["id"], []):
                annotations.append({**entry, "id": len(annotations), "image_id": number})
            if kind == "captions":
                os.link(world / "train2017" / scene["file_name"], root / "train2017" / name)
        path = root / "annotations" / f"{kind}_train2017.json"
        path.write_text(json.dumps({**content, "images": images, "annotations": annotations}))


def main() -> None:
    """Draw, caption twice, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 20000])
    parser.add_argument("--folder", type=Path, default=Path("runs/captioning_memory"))
    parser.add_argument("--one", type=Path, nargs=2, help="caption this folder into that one")
    parser.add_argument("--sample", type=int, help="caption a sample of so many")
    args = parser.parse_args()
    if args.one:
        caption(*args.one, num_images=args.sample)
        return
    world = args.folder / "world"
    write_world(MiniatureConfig(out=world, num_train=200, num_val=1, num_test=1))
    print("| images | run | seconds | peak RSS, MB |\n|--:|---|--:|--:|")
    for count in args.images:
        root = args.folder / f"coco-{count}"
        if not root.exists():
            repeat(world, root, count)
        for name, out, sample in (
            ("a sample of 500", args.folder / f"sample-{count}", 500),
            ("all", args.folder / f"out-{count}", None),
            ("all, done before", args.folder / f"out-{count}", None),
        ):
            command = [sys.executable, "-m", "benchmarks.captioning_memory", "--one", root, out]
            command += ["--sample", str(sample)] if sample else []
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, peak = done.stdout.split()
            print(f"| {count} | {name} | {seconds} | {peak} |", flush=True)


if __name__ == "__main__":
    main()
