"""Whether the disk has room for what is to be written."""

import shutil
from pathlib import Path

from mmcb.errors import MmcbError

GIGABYTE = 1e9
_RESERVE = 64 * 1024 * 1024
"""Left free: a disk filled to the last byte breaks everything else."""


def check_space(folder: Path, num_bytes: int, *, what: str) -> None:
    """Raise if the disk of a folder, which may not exist yet, has too little room.

    Raises:
        MmcbError: It has.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if num_bytes + _RESERVE > free:
        raise MmcbError(
            f"{what} needs {num_bytes / GIGABYTE:.1f} GB in {folder}, {free / GIGABYTE:.1f} GB are "
            "free",
            hint="make room, or give --coco-root a folder on another disk",
        )
