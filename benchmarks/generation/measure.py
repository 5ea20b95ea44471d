"""One engine in a process of its own: caption all images of a folder, print seconds, keep texts."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from mmcb.captioning.config import DEFAULT_PROMPT
from mmcb.generation import make_generator
from mmcb.generation.config import EngineConfig
from mmcb.generation.protocol import Request, Sampling
from mmcb.records import Message

WARM_UP = 16
"""Captions before the clock starts: kernels are chosen, connections opened."""


def caption_requests(folder: Path) -> list[Request]:
    """A request for a caption of each image of a folder, in the order of their names."""
    prompt = (Message(role="user", content=DEFAULT_PROMPT),)
    return [Request(path.name, prompt, path) for path in sorted(folder.iterdir())]


def measure(
    engine: EngineConfig, model: str, *, images: Path, batch_size: int, max_new_tokens: int
) -> dict[str, Any]:
    """Seconds to start and to caption, of the clock and of the cores; tokens written; the texts."""
    requests = caption_requests(images)
    sampling = Sampling(max_new_tokens=max_new_tokens, batch_size=batch_size)
    begun = time.perf_counter()
    generator = make_generator(engine, model)
    list(generator.generate(requests[:WARM_UP], sampling))
    started, before = time.perf_counter(), cpu_seconds()
    done = [c for batch in generator.generate(requests, sampling) for c in batch]
    ended, after = time.perf_counter(), cpu_seconds()
    return {
        "start_seconds": started - begun,
        "seconds": ended - started,
        "cpu_seconds": after - before,
        "captions": sum(c.finish_reason != "error" for c in done),
        "tokens": sum(c.num_tokens for c in done),
        "texts": {c.id: c.text for c in done},
    }


def cpu_seconds() -> float:
    """What the benchmark and all of its processes have used of the cores so far, a server too.

    Other work on the machine slows the clock's seconds down, and hardly these.
    """
    benchmark = psutil.Process(os.getppid())
    times = (each.cpu_times() for each in [benchmark, *benchmark.children(recursive=True)])
    return float(sum(one.user + one.system for one in times))


def main() -> None:
    """Run the job that the argument describes; its result goes to the file that it names."""
    job = json.loads(sys.argv[1])
    result = measure(
        EngineConfig.model_validate(job["engine"]),
        job["model"],
        images=Path(job["images"]),
        batch_size=job["batch_size"],
        max_new_tokens=job["max_new_tokens"],
    )
    Path(job["out"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
