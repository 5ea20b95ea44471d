"""Several processes as one run: how they start, agree on what one of them found out, and fail.

`accelerate launch` and `torchrun` start the same command once for each device and say so in the
environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from mmcb.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR
from mmcb.errors import MmcbError
from mmcb.log import is_main_process
from mmcb.training.config import TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

Found = TypeVar("Found")

LAUNCH = "accelerate launch --num_processes N -m mmcb.training ..."
SHARDED = "accelerate launch --use_fsdp --fsdp_version 2 --num_processes N -m mmcb.training ..."


def accelerator_of(config: TrainingConfig) -> Accelerator:
    """Devices and processes as the launcher set them up; one process without one.

    Raises:
        MmcbError: a device that is not there, or a way to share the model out that is not ours.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

    _check_launch()
    # Without this, accelerate takes several processes on a machine without a GPU for one each.
    cpu = config.device == "cpu" or (
        config.device == "auto" and not torch.accelerator.is_available()
    )
    accelerator = Accelerator(cpu=cpu)
    # Else transformers, too, reads the environment, and leaves all but rank 0 without weights.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    asked, found = config.device, accelerator.device
    if asked != "auto" and found.type != asked.partition(":")[0]:
        raise MmcbError(f"--device {asked}: accelerate finds {found}", hint="leave --device out")
    if ":" in asked and str(found) != asked:
        raise MmcbError(
            f"--device {asked}: accelerate chose {found} among the devices it can see",
            hint=f"CUDA_VISIBLE_DEVICES={asked.partition(':')[2]} python -m mmcb.training ...",
        )
    if accelerator.num_processes != _launched():
        raise MmcbError(
            f"{_launched()} processes were launched, and accelerate finds no way to connect them on"
            f" {found}",
            hint="use --device cpu, or one process",
        )
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise MmcbError(f"{accelerator.distributed_type.value} is not supported", hint=SHARDED)
    if config.paper_compat and config.accumulation % accelerator.num_processes:
        raise MmcbError(
            f"--paper-compat: {config.accumulation} batches a step cannot be shared out among"
            f" {accelerator.num_processes} processes, and each is a mean of its own",
            hint="make --accumulation a multiple of the processes, or use one process",
        )
    return accelerator


def wants_sharding() -> bool:
    """Whether several processes are to share out the parameters (FSDP).

    Asked of the environment, since accelerate itself knows FSDP on GPUs only.
    """
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return asked and "LOCAL_RANK" in os.environ


def from_main(accelerator: Accelerator, work: Callable[[], Found]) -> Found:
    """Do something in the main process alone, and let all have what came of it.

    Args:
        accelerator: the processes; all of them must call this.
        work: what to do. Its result travels to the other processes.

    Returns:
        The main process's result.

    Raises:
        MmcbError: in all processes, if it was raised in the main one.
    """
    if accelerator.num_processes == 1:
        return work()
    from accelerate.utils import broadcast_object_list

    told: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            told[0] = work()
        except MmcbError as error:
            told[1] = (error.message, error.hint)
    broadcast_object_list(told)
    found: Found = told[0]
    failure = told[1]
    if failure is not None:
        raise MmcbError(failure[0], hint=failure[1])
    return found


@contextmanager
def one_voice() -> Iterator[None]:
    """Inside, what several processes have to say at their end is said by one.

    Most errors meet all processes at once; one that meets a single process must be told by it.
    """
    try:
        yield
    except MmcbError:
        if not _speaks_first():
            raise SystemExit(EXIT_USER_ERROR) from None
        raise
    except KeyboardInterrupt:
        if not is_main_process():
            raise SystemExit(EXIT_INTERRUPTED) from None
        raise


def _speaks_first() -> bool:
    """Whether no other process has claimed to tell an error; asked once by each."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if _launched() == 1 or address is None or port is None:
        return True
    from datetime import timedelta

    from torch import distributed

    try:
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            address, int(port), is_master=False, timeout=timedelta(seconds=5)
        )
        return bool(store.add("mmcb/failed", 1) == 1)
    except (RuntimeError, ValueError):  # who held the store is gone
        return True


def _launched() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _check_launch() -> None:
    """Refuse, before anything is set up, what a launcher may ask for and training does not do.

    Raises:
        MmcbError: FSDP 1, or an option of FSDP that would be passed over in silence.
    """
    if not wants_sharding():
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise MmcbError("FSDP 1 is not supported", hint=SHARDED)
    unsupported = {
        "FSDP_OFFLOAD_PARAMS": "--fsdp_offload_params",
        "FSDP_ACTIVATION_CHECKPOINTING": "--fsdp_activation_checkpointing",
        "ACCELERATE_USE_PARALLELISM_CONFIG": "--use_parallelism_config",
    }
    for variable, flag in unsupported.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise MmcbError(
                f"{flag} is not supported", hint="leave it out of accelerate's settings"
            )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        raise MmcbError(
            f"--mixed_precision {precision} is not supported with FSDP: the frozen weights have the"
            " precision of --dtype, and the adapter has float32",
            hint="--mixed_precision no",
        )
