"""Downloading: cut connections, servers without ranges, wrong files, full disks, evil archives."""

import hashlib
import io
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mmcb.coco import download as command
from mmcb.coco.archives import ANNOTATIONS, IMAGES, Archive
from mmcb.coco.config import DownloadConfig
from mmcb.coco.download import download
from mmcb.coco.fetch import fetch
from mmcb.coco.unpack import unpack
from mmcb.errors import MmcbError
from tests.coco.range_server import Served, serving

CONTENT = bytes(range(256)) * 4096
"""A megabyte."""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(Served(files={"/f.zip": CONTENT})) as served:
        yield served


def get(served: Served, path: Path, **changes: object) -> None:
    settings: dict[str, object] = {
        "size": len(CONTENT),
        "digest": hashlib.sha256(CONTENT).hexdigest(),
        "retries": 2,
        "timeout": 5.0,
        "sleep": lambda seconds: None,
    }
    fetch(f"{served.url}/f.zip", path, **(settings | changes))  # type: ignore[arg-type]


def test_a_download_goes_on_where_it_was_cut(served: Served, tmp_path: Path) -> None:
    served.cuts = [300_000, 1, 400_000]
    get(served, tmp_path / "f.zip")
    assert (tmp_path / "f.zip").read_bytes() == CONTENT
    assert served.asked == ["bytes=0-", "bytes=300000-", "bytes=300001-", "bytes=700001-"]
    assert [path.name for path in tmp_path.iterdir()] == ["f.zip"]
    get(served, tmp_path / "f.zip")
    assert len(served.asked) == 4  # it is there, and right: nobody was asked again


def test_the_next_run_goes_on_too(served: Served, tmp_path: Path) -> None:
    served.cuts = [500_000, 0, 0, 0]
    with pytest.raises(MmcbError, match=r"connection lost .*; 0 of 1 MB are here") as error:
        get(served, tmp_path / "f.zip")
    assert "goes on from there" in str(error.value.hint)
    assert not (tmp_path / "f.zip").exists()
    get(served, tmp_path / "f.zip")
    assert served.asked[-1] == "bytes=500000-"
    assert (tmp_path / "f.zip").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(served: Served, tmp_path: Path) -> None:
    served.ranges, served.cuts = False, [600_000]
    get(served, tmp_path / "f.zip")
    assert (tmp_path / "f.zip").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_a_missing_file_is_not(served: Served, tmp_path: Path) -> None:
    served.statuses = [503, 503]
    get(served, tmp_path / "f.zip")
    served.statuses = [404]
    with pytest.raises(MmcbError, match="HTTP 404"):
        get(served, tmp_path / "g.zip")
    served.statuses = [503, 503, 503]
    with pytest.raises(MmcbError, match="HTTP 503"):
        get(served, tmp_path / "g.zip")


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_a_wrong_file_is_deleted(served: Served, tmp_path: Path, algorithm: str) -> None:
    get(served, tmp_path / "f.zip", digest=hashlib.new(algorithm, CONTENT).hexdigest())
    wrong = hashlib.new(algorithm, b"another").hexdigest()
    with pytest.raises(MmcbError, match=f"its {algorithm} is .*, not {wrong}"):
        get(served, tmp_path / "g.zip", digest=wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["f.zip"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_of_another_length_is_refused(served: Served, tmp_path: Path, ranges: bool) -> None:
    served.ranges = ranges
    with pytest.raises(MmcbError, match="has 1048576 bytes, not 1048577"):
        get(served, tmp_path / "f.zip", size=len(CONTENT) + 1)
    (tmp_path / "f.zip.part").write_bytes(b"x" * 2_000_000)  # of another file, longer than this one
    get(served, tmp_path / "f.zip")


def test_nobody_listens(served: Served, tmp_path: Path) -> None:
    served.url = "http://127.0.0.1:9"  # the discard port
    with pytest.raises(MmcbError, match="connection lost"):
        get(served, tmp_path / "f.zip")


def zipped(members: dict[str, bytes], *, links: tuple[str, ...] = ()) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if name in links:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, content)
    return data.getvalue()


class Miniature(NamedTuple):
    """A COCO of two images, served as if it were COCO's own."""

    served: Served
    root: Path

    def config(self, **changes: object) -> DownloadConfig:
        settings = {"split": ("val2017",), "coco_root": self.root, "base_url": self.served.url}
        return DownloadConfig.model_validate({**settings, "retries": 1, **changes})


@pytest.fixture
def miniature(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Miniature:
    images = zipped({"val2017/": b"", "val2017/1.jpg": b"one", "val2017/2.jpg": b"two"})
    people = zipped({"annotations/instances_val2017.json": b"{}"})
    for table, path, content, holds in (
        (IMAGES, "zips/val2017.zip", images, ("val2017/*.jpg", 2)),
        (ANNOTATIONS, "annotations/a.zip", people, ("annotations/*_val2017.json", 1)),
    ):
        served.files[f"/{path}"] = content
        digest = hashlib.sha256(content).hexdigest()
        archive = Archive(path, len(content), digest, (holds,))
        monkeypatch.setitem(table, "val2017", archive)
    return Miniature(served, tmp_path / "coco")


def test_the_command_leaves_a_coco_folder(miniature: Miniature) -> None:
    miniature.served.cuts = [10]
    download(miniature.config())
    root = miniature.root
    assert (root / "val2017" / "2.jpg").read_bytes() == b"two"
    assert (root / "annotations" / "instances_val2017.json").is_file()
    assert not list((root / "downloads").iterdir())
    asked = len(miniature.served.asked)
    download(miniature.config())
    assert len(miniature.served.asked) == asked
    # One image is gone, and one was changed: the archive is fetched again, the rest left alone.
    (root / "val2017" / "1.jpg").unlink()
    download(miniature.config(keep_archives=True))
    assert (root / "val2017" / "1.jpg").read_bytes() == b"one"
    assert (root / "downloads" / "val2017.zip").is_file()


def test_only_what_is_asked_for(miniature: Miniature) -> None:
    download(miniature.config(annotations=False))
    assert not (miniature.root / "annotations").exists()


def test_the_users_checksum_counts(miniature: Miniature) -> None:
    wrong = hashlib.md5(b"another").hexdigest()
    with pytest.raises(MmcbError, match=f"val2017.zip is not what it should be.*not {wrong}"):
        download(miniature.config(checksum=(f"val2017.zip={wrong}",)))
    assert not (miniature.root / "val2017").exists()
    right = hashlib.md5(miniature.served.files["/zips/val2017.zip"]).hexdigest()
    download(miniature.config(checksum=(f"val2017.zip={right.upper()}",)))
    with pytest.raises(MmcbError, match=r"train2017\.zip is not downloaded"):
        download(miniature.config(checksum=(f"train2017.zip={right}",)))


def test_a_full_disk_is_seen_beforehand(
    miniature: Miniature, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(miniature.root.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(MmcbError, match=r"COCO needs 0\.0 GB in .*, 0\.0 GB are free"):
        download(miniature.config())
    assert miniature.served.asked == []
    assert not miniature.root.exists()


def test_the_room_that_is_needed(miniature: Miniature) -> None:
    big, small = Archive("zips/a.zip", 100, "", ()), Archive("zips/b.zip", 10, "", (), growth=5.0)
    config = miniature.config()
    assert command._room_needed([big, small], config) == 100 + 100 + 50
    kept = miniature.config(keep_archives=True)
    assert command._room_needed([big, small], kept) == 110 + 100 + 50
    downloads = miniature.root / "downloads"
    downloads.mkdir(parents=True)
    (downloads / "a.zip.part").write_bytes(b"x" * 60)
    assert command._room_needed([big, small], config) == 40 + 100 + 50
    assert command._room_needed([], config) == 0


EVIL = {
    "up": "val2017/../../evil.jpg",
    "absolute": "/evil.jpg",
    "another folder": "annotations/evil.json",
    "the root": "evil.jpg",
    "windows": "val2017\\..\\evil.jpg",
    "drive": "C:/evil.jpg",
}


@pytest.mark.parametrize("name", EVIL.values(), ids=EVIL)
def test_nothing_is_unpacked_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "e.zip").write_bytes(zipped({"val2017/1.jpg": b"one", name: b"evil"}))
    with pytest.raises(MmcbError, match="nothing of it was unpacked"):
        unpack(tmp_path / "e.zip", tmp_path / "a" / "root", top="val2017")
    assert [path.name for path in tmp_path.rglob("*")] == ["e.zip"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    links = zipped({"val2017/link": b"/etc"}, links=("val2017/link",))
    (tmp_path / "e.zip").write_bytes(links)
    with pytest.raises(MmcbError, match=r"\(a link\)"):
        unpack(tmp_path / "e.zip", tmp_path / "root", top="val2017")
    (tmp_path / "out").mkdir()
    (tmp_path / "root" / "val2017").mkdir(parents=True)
    (tmp_path / "root" / "val2017" / "deep").symlink_to(tmp_path / "out")
    (tmp_path / "e.zip").write_bytes(zipped({"val2017/deep/1.jpg": b"one"}))
    with pytest.raises(MmcbError, match="is a link that leads out of"):
        unpack(tmp_path / "e.zip", tmp_path / "root", top="val2017")
    assert not list((tmp_path / "out").iterdir())


def test_a_damaged_archive_leaves_no_half_file(tmp_path: Path) -> None:
    content = zipped({"val2017/1.jpg": b"first" * 99, "val2017/2.jpg": b"second" * 99})
    damaged = content.replace(b"secondsecond", b"secondSECOND", 1)
    archive, root = tmp_path / "d.zip", tmp_path / "root"
    archive.write_bytes(damaged)
    with pytest.raises(MmcbError, match="is damaged: Bad CRC-32"):
        unpack(archive, root, top="val2017")
    assert [path.name for path in (root / "val2017").iterdir()] == ["1.jpg"]
    # A kill in the middle leaves the same: the next run writes what is missing.
    archive.write_bytes(content)
    before = (root / "val2017" / "1.jpg").stat().st_mtime_ns
    assert unpack(archive, root, top="val2017") == 2
    assert (root / "val2017" / "1.jpg").stat().st_mtime_ns == before
    archive.write_bytes(b"<html>404</html>")
    with pytest.raises(MmcbError, match="is damaged: File is not a zip file"):
        unpack(archive, root, top="val2017")


def test_the_table_names_coco_archives() -> None:
    for split, archive in IMAGES.items():
        assert archive.path == f"zips/{split}.zip"
        assert archive.holds[0][0] == f"{split}/*.jpg"
    archives = {*IMAGES.values(), *ANNOTATIONS.values()}
    assert IMAGES.keys() == ANNOTATIONS.keys()
    assert all(len(a.sha256) == 64 and a.size > 700_000 for a in archives)
    assert len({a.sha256 for a in archives}) == len(archives)


@pytest.mark.parametrize("text", ["abc", "=d41d8cd98f00b204e9800998ecf8427e", "a.zip=xyz"])
def test_digests_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not NAME\.zip=HEX"):
        DownloadConfig(split=("val2017",), checksum=(text,))
