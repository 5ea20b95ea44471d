"""The list of images that were left out, or that were not used as they are."""

from pathlib import Path
from typing import Literal

from mmcb.captioning.coco import ImageFile
from mmcb.records import ImagePath, Record
from mmcb.store import RecordWriter, read_records, record_id, relative_image, replace_records

Status = Literal["skipped", "converted"]


class ImageNote(Record):
    """A line of skipped.jsonl: an image that was left out, or that was not used as it is."""

    status: Status
    image: ImagePath
    """Path relative to the folder of the file."""
    reason: str


class Notes:
    """skipped.jsonl: appended to while working, then settled to one line an image.

    Opening it cuts off a line torn by a kill. Write within `with notes.writer:`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer = RecordWriter(path, ImageNote)
        with self.writer:  # cuts off a torn line, so that the file can be read
            pass
        self.known: dict[str, ImageNote] = {note.id: note for note in read_records(path, ImageNote)}

    def forget(self, file: ImageFile) -> None:
        """Drop what an earlier run said of an image that is looked at again."""
        self.known.pop(_image_id(file), None)

    def add(self, file: ImageFile, status: Status, reason: str) -> None:
        """Note an image; what was said of it before no longer holds."""
        note = ImageNote(
            id=_image_id(file),
            status=status,
            image=relative_image(self.path, file.path),
            reason=reason,
        )
        self.known[note.id] = note
        self.writer.write([note])

    def settle(self) -> None:
        """Leave one line an image: the last word on it."""
        replace_records(self.path, self.known.values())


def _image_id(file: ImageFile) -> str:
    return record_id("image", file.key)
