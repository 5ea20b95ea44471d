"""Records by id and by image, without holding them in memory."""

from pathlib import Path

import pytest

from mmcb.errors import MmcbError
from mmcb.record_index import RecordIndex
from mmcb.records import Task
from mmcb.store import RecordWriter, read_records


def task(name: str, image: str | None = None, prompt: str = "what ?") -> Task:
    return Task(id=name, task="vqa", prompt=prompt, image=image)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    with RecordWriter(path) as writer:
        writer.write([task("b", "2.png"), task("a", "1.png"), task("c", "2.png"), task("d")])
    return path


def test_by_id_and_by_image(path: Path) -> None:
    index = RecordIndex(path, Task)
    assert (len(index), index.repeated) == (4, 0)
    assert "a" in index
    assert "e" not in index
    assert list(index.ids()) == ["a", "b", "c", "d"]
    assert list(index.images()) == ["1.png", "2.png"]
    assert [record.id for record in index.of_image("2.png")] == ["b", "c"]
    assert index.has_image("1.png")
    assert not index.has_image("3.png")


def test_a_missing_file_is_empty_and_what_is_appended_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    index = RecordIndex(path, Task)
    assert len(index) == 0
    with RecordWriter(path) as writer:
        writer.write([task("a", "1.png", "old ?")])
        index.refresh()
        writer.write([task("a", "1.png", "new ?"), task("b", "1.png")])
    with path.open("a") as file:
        file.write('{"id": "torn')
    index.refresh()
    assert (len(index), index.repeated) == (2, 1)
    assert [record.prompt for record in index.of_image("1.png")] == ["new ?", "what ?"]


def test_settling_leaves_the_last_word_in_the_order_of_images(path: Path) -> None:
    with RecordWriter(path) as writer:
        writer.write([task("b", "0.png", "again ?")])
    index = RecordIndex(path, Task)
    index.discard("c")
    index.settle()
    assert [record.id for record in RecordIndex(path, Task).of_image("0.png")] == ["b"]
    assert [line[19:20] for line in path.read_text().splitlines()] == ["d", "b", "a"]
    assert list(index.images()) == ["0.png", "1.png"]
    assert index.of_image("0.png")[0].prompt == "again ?"


def test_bad_lines_are_named(path: Path) -> None:
    with path.open("a") as file:
        file.write('\n{"id": "x", "image": "9.png"}\n')
    with pytest.raises(MmcbError, match=r"tasks\.jsonl:6: not a valid Task record: task"):
        RecordIndex(path, Task).of_image("9.png")
    with path.open("a") as file:
        file.write("[]\n")
    with pytest.raises(MmcbError, match=r"tasks\.jsonl:7: not a record with an id"):
        RecordIndex(path, Task)


def test_a_record_by_its_id_and_a_file_in_an_order_of_ones_own(path: Path) -> None:
    index = RecordIndex(path, Task)
    found = index.get("c")
    assert found is not None
    assert found.image == "2.png"
    assert index.get("e") is None
    index.discard("c")
    index.settle(order=lambda id_: {"a": "3", "b": "1", "d": "2"}[id_])
    assert [record.id for record in read_records(path, Task)] == ["b", "d", "a"]
