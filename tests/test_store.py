"""Files of records: torn lines, resume, atomic replacement, paths of images."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmcb.errors import MmcbError
from mmcb.records import Task, Verdict
from mmcb.store import (
    RecordWriter,
    existing_ids,
    file_hash,
    read_records,
    record_id,
    relative_image,
    replace_records,
    resolve_image,
    write_atomic,
)


def task(name: str) -> Task:
    return Task(id=name, task="fact", prompt=f"what is {name} ?", references=("it",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "tasks.jsonl"


def test_write_then_read_then_append(path: Path) -> None:
    with RecordWriter(path, Task) as writer:
        writer.write([task("a"), task("b")])
        # On disk before the writer closes: a kill loses at most the batch being made.
        assert existing_ids(path) == {"a", "b"}
    with RecordWriter(path) as writer:
        writer.write([])
        writer.write([task("c")])
    assert [record.id for record in read_records(path, Task)] == ["a", "b", "c"]


@pytest.mark.parametrize("size", [10, 200_000])
def test_torn_last_line_is_cut_and_made_again(path: Path, size: int) -> None:
    with RecordWriter(path) as writer:
        writer.write([task("a"), task("b" * size)])
    whole = path.read_bytes()
    for torn in (whole[:-1], whole[:-5], whole[: whole.index(b"\n") + 2]):
        path.write_bytes(torn)
        assert existing_ids(path) == {"a"}
        with RecordWriter(path) as writer:
            assert existing_ids(path) == {"a"}
            writer.write([task("b" * size)])
        assert path.read_bytes() == whole


def test_file_of_one_torn_line_becomes_empty(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"id": "a", "te')
    assert existing_ids(path) == set()
    with RecordWriter(path):
        assert path.read_bytes() == b""


def test_reading_names_a_torn_line(path: Path) -> None:
    with RecordWriter(path) as writer:
        writer.write([task("a"), task("b")])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(MmcbError, match=r"tasks\.jsonl:2: the last line is cut off") as caught:
        list(read_records(path, Task))
    assert caught.value.hint


@pytest.mark.parametrize("line", ["{}", "not json", '{"id": "a", "task": "fact"}', "[]", "\xff"])
def test_reading_names_file_and_line(path: Path, line: str) -> None:
    replace_records(path, [task("a")])
    path.write_bytes(path.read_bytes() + b"\n" + line.encode("latin-1") + b"\n")
    with pytest.raises(MmcbError, match=r"tasks\.jsonl:3: not a valid Task record"):
        list(read_records(path, Task))


def test_missing_files(path: Path) -> None:
    assert existing_ids(path) == set()
    with pytest.raises(MmcbError, match="No such file"):
        list(read_records(path, Task))


def test_a_finished_line_without_id_is_an_error(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"id": "a"}\n\n{"name": "b"}\n')
    with pytest.raises(MmcbError, match=r"tasks\.jsonl:3"):
        existing_ids(path)


def test_writer_refuses_other_types_and_use_outside(path: Path) -> None:
    with RecordWriter(path, Verdict) as writer, pytest.raises(TypeError, match="takes Verdict"):
        writer.write([task("a")])
    with pytest.raises(ValueError, match="with block"):
        writer.write([])


def test_second_writer_is_refused(path: Path) -> None:
    with RecordWriter(path) as writer:
        writer.write([task("a")])
        with pytest.raises(MmcbError, match="another process"), RecordWriter(path):
            pass
    with RecordWriter(path):
        pass


def test_killed_writer_leaves_whole_records(path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from mmcb.store import RecordWriter; from mmcb.records import Task\n"
        f"with RecordWriter(Path({str(path)!r})) as writer:\n"
        "    writer.write([Task(id='a', task='fact', prompt='p')])\n"
        '    writer._file.write(b\'{"id": "b"\'); writer._file.flush()\n'
        f"    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    with RecordWriter(path) as writer:
        writer.write([task("b")])
    assert [record.id for record in read_records(path, Task)] == ["a", "b"]


def test_atomic_replacement_keeps_the_old_file_on_failure(path: Path) -> None:
    write_atomic(path, "old")

    def broken() -> list[Task]:
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        replace_records(path, (record for _ in range(2) for record in broken()))
    assert path.read_text() == "old"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == [path.name]


def test_atomic_write_cleans_up_when_the_disk_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(path, "old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]


def test_ids_are_stable_and_tell_parts_apart() -> None:
    assert record_id("a", 1) == record_id("a", 1) == "2657442bb4a48d62"
    ids = {
        record_id("a", 1),
        record_id("a", "1"),
        record_id("a1"),
        record_id("a", "b"),
        record_id(),
    }
    assert len(ids) == 5
    assert all(len(name) == 16 for name in ids)


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_hash(tmp_path / "f").startswith("ba7816bf8f01cfea")


def test_images_are_named_from_the_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl = tmp_path / "synthesis" / "coco" / "captions.jsonl"
    image = tmp_path / "coco" / "train2017" / "1.jpg"
    assert relative_image(jsonl, image) == "../../coco/train2017/1.jpg"
    assert resolve_image(jsonl, relative_image(jsonl, image)) == image
    monkeypatch.chdir(tmp_path)
    name = relative_image(Path("synthesis/coco/captions.jsonl"), Path("coco/train2017/1.jpg"))
    assert name == "../../coco/train2017/1.jpg"
    assert resolve_image(Path("synthesis/coco/captions.jsonl"), name) == image


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "coco").symlink_to(tmp_path / "elsewhere")
    jsonl = tmp_path / "data" / "captions.jsonl"
    assert relative_image(jsonl, tmp_path / "data" / "coco" / "1.jpg") == "coco/1.jpg"
