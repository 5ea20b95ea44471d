"""Peak memory of `python -m mmcb.captioning`, as the kernel counts it for the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CAPTION_TOKENS = 4
"""Short captions: memory depends on how many there are, and twenty thousand are to be had today."""


def captioning_peak_gib(model: str, *, scenes: Path, num_images: int, folder: Path) -> float:
    """Caption `num_images` images and return the peak resident memory in GiB.

    The images are links to `scenes`, each under many names: captioning opens every one.

    Raises:
        RuntimeError: the command failed, or there are not as many captions as images.
    """
    root = folder / f"coco-{num_images}"
    split = root / "train2017"
    split.mkdir(parents=True)
    sources = sorted(scenes.iterdir())
    for number in range(num_images):
        source = sources[number % len(sources)]
        os.link(source, split / f"{number:012d}{source.suffix}")
    command = [sys.executable, "-m", "mmcb.captioning", "--coco-root", str(root)]
    command += ["--out", str(root / "out"), "--model", model, "--num-images", str(num_images)]
    command += ["--max-new-tokens", str(CAPTION_TOKENS)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    written = (root / "out" / "captions.jsonl").read_bytes().count(b"\n")
    if process.returncode or written != num_images:
        raise RuntimeError(f"{written} captions of {num_images}: {said[-2000:]}")
    return usage.ru_maxrss / (1 << 20)
