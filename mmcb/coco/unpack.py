"""Unpacking an archive without trusting it: nothing leaves the folder, no file is half."""

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from mmcb.coco.space import check_space
from mmcb.errors import MmcbError
from mmcb.log import progress
from mmcb.store import replacing

_BLOCK = 1 << 20


def unpack(archive: Path, root: Path, *, top: str) -> int:
    """Unpack a zip file into a folder; files that are there already, whole, are left alone.

    Every file is written under another name and renamed once its CRC is right, so that a kill
    leaves only whole ones and the next call goes on.

    Args:
        archive: The zip file.
        root: The folder to unpack into.
        top: The one folder that it may write to, such as train2017.

    Returns:
        How many files it holds.

    Raises:
        MmcbError: No zip file, damaged, too large for the disk, or with a path that leads
            elsewhere; then nothing was written outside of `top`.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
            targets = [_target(member, root, top=top, archive=archive) for member in members]
            todo = [
                (member, target)
                for member, target in zip(members, targets, strict=True)
                if not (target.is_file() and target.stat().st_size == member.file_size)
            ]
            check_space(root, sum(member.file_size for member, _ in todo), what=archive.name)
            with progress(len(members), f"unpacking {top}", len(members) - len(todo)) as bar:
                for member, target in todo:
                    _extract(file, member, target)
                    bar.advance()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise MmcbError(
            f"{archive} is damaged: {error}",
            hint="delete it and run the command again; files unpacked so far stay",
        ) from None
    return len(members)


def _target(member: zipfile.ZipInfo, root: Path, *, top: str, archive: Path) -> Path:
    """Where a member goes, if that is inside of `top`."""
    # ZipInfo cuts a name at a NUL byte; the original is what the archive says.
    name = member.orig_filename
    path = PurePosixPath(name)
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    strange = "\\" in name or ":" in name or "\0" in name or ".." in path.parts
    if path.is_absolute() or strange or is_link or path.parts[:1] != (top,) or len(path.parts) < 2:
        raise MmcbError(
            f"{archive} holds {name!r}{' (a link)' if is_link else ''}, which does not lie in "
            f"{top}/: nothing of it was unpacked",
            hint="it is not COCO's archive: delete it",
        )
    target = root.joinpath(*path.parts)
    # A link that lies in the folder already would lead elsewhere too.
    if not target.parent.resolve().is_relative_to((root / top).resolve()):
        raise MmcbError(f"{target.parent} is a link that leads out of {root / top}")
    return target


def _extract(file: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    with file.open(member) as source, replacing(target) as copy:
        while block := source.read(_BLOCK):  # raises BadZipFile at the end if the CRC is wrong
            copy.write(block)
