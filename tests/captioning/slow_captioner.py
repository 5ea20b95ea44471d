"""Run by a test in a process of its own, which it kills: captions steadily until it is done.

usage: python -m tests.captioning.slow_captioner COCO_ROOT OUT
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmcb.captioning.caption import caption_images
from mmcb.captioning.config import CaptioningConfig
from mmcb.generation.protocol import Completion, Request, Sampling
from tests.captioning.coco_folders import FakeCaptioner


class SlowCaptioner(FakeCaptioner):
    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        for batch in super().generate(requests, sampling):
            time.sleep(0.005)
            yield batch


if __name__ == "__main__":
    config = CaptioningConfig(coco_root=Path(sys.argv[1]), out=Path(sys.argv[2]), batch_size=3)
    caption_images(config, make=lambda name: SlowCaptioner())
