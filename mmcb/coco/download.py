"""`python -m mmcb.coco.download --split val2017`: get COCO, check it and unpack it."""

from pathlib import Path

from mmcb.cli import run_command
from mmcb.coco.archives import ANNOTATIONS, IMAGES, Archive
from mmcb.coco.config import DownloadConfig
from mmcb.coco.fetch import fetch
from mmcb.coco.space import check_space
from mmcb.coco.unpack import unpack
from mmcb.errors import MmcbError
from mmcb.log import get_logger

_log = get_logger(__name__)


def download(config: DownloadConfig) -> None:
    """Get what is missing of the splits and their annotations.

    Raises:
        MmcbError: It cannot be had, is not what it should be, or has no room.
    """
    archives = [IMAGES[split] for split in config.split]
    if config.annotations:
        archives += [ANNOTATIONS[split] for split in config.split]
    archives = list(dict.fromkeys(archives))
    _check_names(config, archives)
    missing = [archive for archive in archives if not archive.is_unpacked(config.coco_root)]
    for archive in archives:
        if archive not in missing:
            _log.info("%s is unpacked in %s already", archive.name, config.coco_root)
    check_space(config.coco_root, _room_needed(missing, config), what="COCO")
    for archive in missing:
        _get(archive, config)


def _get(archive: Archive, config: DownloadConfig) -> None:
    root = config.coco_root
    path = _place(archive, root)
    fetch(
        f"{config.base_url.rstrip('/')}/{archive.path}",
        path,
        size=archive.size,
        digest=config.digests.get(archive.name, archive.sha256),
        retries=config.retries,
        timeout=config.timeout,
    )
    count = unpack(path, root, top=archive.holds[0][0].partition("/")[0])
    if not archive.is_unpacked(root):
        expected = ", ".join(f"{number} {pattern}" for pattern, number in archive.holds)
        raise MmcbError(f"{path} holds {count} files, but not what COCO's does: {expected}")
    if not config.keep_archives:
        path.unlink()
    _log.info("%s: %d files in %s", archive.name, count, root)


def _place(archive: Archive, root: Path) -> Path:
    """Where an archive stands until it is unpacked."""
    return root / "downloads" / archive.name


def _room_needed(missing: list[Archive], config: DownloadConfig) -> int:
    """Bytes at the fullest moment: archives that are kept, or the largest one, and what they hold.

    What has come already is not needed again; `unpack` looks exactly, before it begins.
    """
    rest, unpacked = [0], 0
    for archive in missing:
        place = _place(archive, config.coco_root)
        part = place.with_name(place.name + ".part")
        if not place.exists():
            rest.append(archive.size - (part.stat().st_size if part.exists() else 0))
            unpacked += int(archive.size * archive.growth)
    return (sum(rest) if config.keep_archives else max(rest)) + unpacked


def _check_names(config: DownloadConfig, archives: list[Archive]) -> None:
    names = [archive.name for archive in archives]
    for name in config.digests:
        if name not in names:
            raise MmcbError(
                f"--checksum: {name} is not downloaded", hint=f"it takes: {', '.join(names)}"
            )


def main() -> None:
    """Run the command."""
    run_command(
        DownloadConfig,
        download,
        prog="mmcb coco.download",
        description=(
            "Download COCO's images and annotations from its own host, check their SHA-256 and "
            "unpack them. The same command goes on where it was cut short."
        ),
    )


if __name__ == "__main__":
    main()
