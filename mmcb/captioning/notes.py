"""The list of images that were left out, or that were not used as they are."""

from pathlib import Path
from typing import Literal

from mmcb.coco.folder import ImageFile
from mmcb.record_index import RecordIndex
from mmcb.records import Caption, ImagePath, Record
from mmcb.store import RecordWriter, record_id, relative_image

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
        self.index = RecordIndex(path, ImageNote)

    def forget(self, file: ImageFile) -> None:
        """Drop what an earlier run said of an image that is looked at again."""
        self.index.discard(_image_id(file))

    def add(self, file: ImageFile, status: Status, reason: str) -> None:
        """Note an image; what was said of it before no longer holds."""
        note = ImageNote(
            id=_image_id(file),
            status=status,
            image=relative_image(self.path, file.path),
            reason=reason,
        )
        self.writer.write([note])

    def settle(self, captions: RecordIndex[Caption]) -> None:
        """Leave one line an image: the last word on it. What has a caption was not left out."""
        self.index.refresh()
        for image in self.index.images():
            # A run that was killed may have captioned it before it could say so here.
            if captions.has_image(image):
                for note in self.index.of_image(image):
                    if note.status == "skipped":
                        self.index.discard(note.id)
        self.index.settle()


def _image_id(file: ImageFile) -> str:
    return record_id("image", file.key)
