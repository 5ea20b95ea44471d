"""Run by a test in a process of its own, which it kills: writes some examples, then hangs.

usage: python -m tests.synthesis.stuck_writer OUT NUM_IMAGES NUM_ANSWERS NUM_REFUSALS
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmcb.generation.protocol import Completion, Request, Sampling
from mmcb.synthesis.config import SynthesisConfig
from mmcb.synthesis.pipeline import start_run, synthesize
from tests.synthesis.fakes import FakeTarget, FakeWriter, make_captions, maker


class StuckWriter(FakeWriter):
    def __init__(self, count: int) -> None:
        super().__init__(bad=0.4)
        self.count = count

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        for batch in super().generate(requests, sampling):
            if len(self.answered) > self.count:
                time.sleep(3600)
            yield batch


class StuckTarget(FakeTarget):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        for batch in super().generate(requests, sampling):
            if len(self.requests) > self.count:
                time.sleep(3600)
            yield batch


if __name__ == "__main__":
    out, images, answers, refusals = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    config = SynthesisConfig(
        out=out,
        writer="w",
        model="t",
        taxonomy="miniature",
        batch_size=1,
        language=None,
        near_duplicates=None,
    )
    captions = make_captions(out, images)
    with start_run(config) as run:
        make = maker(("w", StuckWriter(answers)), ("t", StuckTarget(refusals)))
        synthesize(config, captions, run=run, make=make)
