"""What each process of test_distributed.py runs: a list of training runs, one after the other.

Starting processes and importing torch takes far longer than these runs, so one launch does many.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.tensor import DTensor

from mmcb.errors import MmcbError
from mmcb.training import run
from mmcb.training.config import TrainingConfig
from mmcb.training.stepper import Stepper


class Stop(BaseException):
    """Stands for SIGKILL: no handler of the run may see it as an end."""


def train(config: TrainingConfig, *, stop_before: int = 0) -> list[Stepper]:
    """Train, or die when a step begins; returns what took the steps, where there was one."""
    made: list[Stepper] = []
    original = Stepper.queue

    def queue(self: Stepper, step: int, passes: Any, **settings: Any) -> Any:
        made[:] = [self]
        if step == stop_before:
            raise Stop
        return original(self, step, passes, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stepper, "queue", queue)
        try:
            run.train(config)
        except Stop:
            assert stop_before
    return made


def main(file: Path) -> None:
    """Run the jobs of a file; each leaves what this process held, or the error that it met."""
    for number, job in enumerate(json.loads(file.read_text())):
        os.environ.update(job["environment"])
        config = TrainingConfig.model_validate(job["settings"])
        try:
            made = train(config, stop_before=job["stop_before"])
            parameters = made[0].rerouter.parameters()
            told = str(sum(_local(parameter).numel() for parameter in parameters))
        except MmcbError as error:
            told = error.message
        (file.parent / f"{number}-{os.environ['RANK']}.txt").write_text(told)


def _local(parameter: Any) -> Any:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


if __name__ == "__main__":
    main(Path(sys.argv[1]))
