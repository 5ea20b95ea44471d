"""Joining the shards of a captioning run: only what makes a whole is joined."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcb.captioning.config import SHARD_RESUMABLE, SHARDS, MergeConfig
from mmcb.captioning.notes import ImageNote
from mmcb.errors import MmcbError
from mmcb.log import get_logger
from mmcb.record_index import RecordIndex
from mmcb.records import Caption, Record
from mmcb.run_folder import RunDir, read_manifest
from mmcb.store import relative_image, replace_records, resolve_image

_AGAIN = "run its `python -m mmcb.captioning --shard` command again, and let it end"
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard's folder with what its manifest says."""

    folder: Path
    number: int
    parts: int
    manifest: dict[str, Any]
    captions: RecordIndex[Caption]
    notes: RecordIndex[ImageNote]

    @property
    def settings(self) -> dict[str, Any]:
        """What all shards must have in common."""
        own = SHARD_RESUMABLE | {"shard"}
        return {key: value for key, value in self.manifest["config"].items() if key not in own}

    @property
    def selection(self) -> dict[str, Any]:
        return dict(self.manifest["selection"])


def merge(config: MergeConfig) -> Path:
    """Join the captions and the skipped images of all shards; returns captions.jsonl.

    Raises:
        MmcbError: A shard is missing, unfinished or of another run, or their records do not make
            the whole; then nothing is written.
    """
    shards = _find(config.folder)
    _check_together(shards)
    for shard in shards:
        _check_alone(shard)
    _check_overlap(shards)
    path = config.folder / "captions.jsonl"
    _check_nothing_is_lost(path, shards)
    with RunDir.start(
        config.folder / "merge",
        command="merge",
        config=config,
        may_change=frozenset(MergeConfig.model_fields),
    ) as run:
        replace_records(path, _joined(path, [shard.captions for shard in shards]))
        skipped = path.with_name("skipped.jsonl")
        replace_records(skipped, _joined(skipped, [shard.notes for shard in shards]))
        total = sum(len(shard.captions) for shard in shards)
        images = shards[0].selection["images"]
        run.note("shards", [str(shard.folder) for shard in shards])
        run.note("images", images)
        _log.info("%d shards, %d images: %d captions in %s", len(shards), images, total, path)
    return path


def _find(folder: Path) -> list[_Shard]:
    shards = []
    for place in sorted((folder / SHARDS).glob("*-of-*")):
        manifest = read_manifest(place / "captioning")
        number, _, parts = str(manifest.get("config", {}).get("shard")).partition("/")
        if manifest["status"] != "complete" or "selection" not in manifest:
            raise MmcbError(f"{place} is not finished: {manifest['status']}", hint=_AGAIN)
        if place.name != f"{number}-of-{parts}":
            raise MmcbError(
                f"{place} holds shard {number}/{parts}", hint="give the folder its own name back"
            )
        captions = RecordIndex(place / "captions.jsonl", Caption)
        notes = RecordIndex(place / "skipped.jsonl", ImageNote)
        shards.append(_Shard(place, int(number), int(parts), manifest, captions, notes))
    if not shards:
        raise MmcbError(
            f"no shards in {folder / SHARDS}",
            hint="make them with `python -m mmcb.captioning --shard 1/2`, then `--shard 2/2`",
        )
    return sorted(shards, key=lambda shard: shard.number)


def _check_together(shards: Sequence[_Shard]) -> None:
    """All parts of one run: the same number of parts, settings, images and weights."""
    first = shards[0]
    for shard in shards[1:]:
        if shard.parts != first.parts:
            raise MmcbError(
                f"{first.folder.name} and {shard.folder.name} are parts of different runs",
                hint="move the shards of one of them away",
            )
    there = {shard.number for shard in shards}
    absent = [number for number in range(1, first.parts + 1) if number not in there]
    if absent:
        names = ", ".join(f"{number}/{first.parts}" for number in absent)
        raise MmcbError(
            f"{first.folder.parent} lacks shard {names}",
            hint=f"make it with the others' settings and --shard {absent[0]}/{first.parts}",
        )
    for shard in shards[1:]:
        changed = [
            f"{key} is {first.settings.get(key)!r} and {value!r}"
            for key, value in shard.settings.items()
            if value != first.settings.get(key)
        ]
        if changed:
            raise MmcbError(
                f"{first.folder.name} and {shard.folder.name} have other settings: "
                f"{'; '.join(changed)}",
                hint="caption one of them again with the settings of the other",
            )
        for key in ("images", "sha256"):
            if shard.selection[key] != first.selection[key]:
                raise MmcbError(
                    f"{first.folder.name} and {shard.folder.name} were made from different images "
                    f"({first.selection['images']} and {shard.selection['images']} in all)",
                    hint="both need the whole COCO folder, with the same annotations",
                )


def _check_alone(shard: _Shard) -> None:
    """Every image of a shard has a caption or a reason why not, and nothing stands twice."""
    path = shard.captions.path
    if shard.captions.repeated:
        raise MmcbError(
            f"{path} holds {shard.captions.repeated} captions twice",
            hint="delete one of each, or the shard's folder, and caption it again",
        )
    captioned = sum(1 for _ in shard.captions.images())
    # A note on a captioned image says that it was converted.
    skipped = sum(not shard.captions.has_image(image) for image in shard.notes.images())
    expected = int(shard.selection["shard_images"])
    if captioned + skipped != expected:
        problem = "lacks" if captioned + skipped < expected else "has too many:"
        raise MmcbError(
            f"{path} {problem} {abs(expected - captioned - skipped)} images: {captioned} with a "
            f"caption and {skipped} skipped, of {expected}",
            hint=_AGAIN,
        )


def _check_overlap(shards: Sequence[_Shard]) -> None:
    """No caption stands in two shards, all are by the same weights, and none is missing."""
    makers: dict[tuple[str, str | None], Path] = {}
    for place, shard in enumerate(shards):
        for id_ in shard.captions.ids():
            for other in shards[:place]:
                if id_ in other.captions:
                    raise MmcbError(
                        f"{other.captions.path} and {shard.captions.path} both hold caption {id_}"
                    )
        for image in shard.captions.images():
            for caption in shard.captions.of_image(image):
                made = caption.provenance
                makers.setdefault((made.generator, made.revision), shard.captions.path)
    if len(makers) > 1:
        told = ", ".join(f"{name} ({revision}) in {p}" for (name, revision), p in makers.items())
        raise MmcbError(f"the shards' captions are by different models: {told}")
    total = sum(int(shard.selection["shard_images"]) for shard in shards)
    if total != shards[0].selection["images"]:
        raise MmcbError(f"the shards have {total} images, not {shards[0].selection['images']}")


def _check_nothing_is_lost(path: Path, shards: Sequence[_Shard]) -> None:
    for id_ in RecordIndex(path, Caption).ids():
        if not any(id_ in shard.captions for shard in shards):
            raise MmcbError(
                f"{path} holds captions that no shard has, such as {id_}", hint="move it away"
            )


def _joined(path: Path, indices: Sequence[RecordIndex[Any]]) -> Iterator[Record]:
    """All records in the order of their images, which are named from the new file's folder."""
    for index in indices:
        for image in index.images():
            for record in index.of_image(image):
                name = relative_image(path, resolve_image(index.path, image))
                yield record.model_copy(update={"image": name})
