"""Where the images of other people's records are, as mmcb's paths."""

from __future__ import annotations

from mmcb.sources.rows import Reading, Row
from mmcb.store import relative_image


def image_path(row: Row, name: object, reading: Reading) -> str:
    """An image's path relative to the folder of `reading.file`, as a record holds it.

    Args:
        row: the record that names it.
        name: what it says: a path below the image folder.
        reading: where that folder is.

    Raises:
        MmcbError: it is no path, or nothing says what folder it is below.
    """
    if not isinstance(name, str) or not name:
        raise row.problem("image: must be a file's name below --image-folder")
    if reading.image_folder is None:
        # A data set of the hub has no folder of its own.
        if not reading.file.name:
            raise row.problem(f"image: {name} is in no folder: --image-folder DIR says where")
        return relative_image(reading.file, reading.file.parent / name)
    return relative_image(reading.file, reading.image_folder / name)
