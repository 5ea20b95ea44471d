"""Run by a test in a process of its own, which it kills: captions some images, then hangs.

usage: python -m tests.captioning.stuck_captioner COCO_ROOT OUT NUM_CAPTIONS
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmcb.captioning.caption import caption_images
from mmcb.captioning.config import CaptioningConfig
from mmcb.generation.protocol import Completion, Request, Sampling
from tests.captioning.coco_folders import FakeCaptioner


class StuckCaptioner(FakeCaptioner):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        for batch in super().generate(requests, sampling):
            if len(self.seen) > self.count:
                time.sleep(3600)
            yield batch


if __name__ == "__main__":
    root, out, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    config = CaptioningConfig(coco_root=root, out=out, batch_size=1)
    caption_images(config, make=lambda name: StuckCaptioner(count))
