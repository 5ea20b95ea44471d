"""Other people's formats: what becomes of a record, and how a bad one is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmcb.errors import MmcbError
from mmcb.records import Example
from mmcb.sources.reading import READERS
from mmcb.sources.rows import Reading, read_rows
from mmcb.store import resolve_image
from tests.training.source_files import (
    ANIMALS,
    chat_rows,
    llava_rows,
    upstream_rows,
    write_all,
    write_csv,
    write_json,
    write_lines,
    xstest_rows,
)


def read(
    text: str, *, kind: str = "retain", image_folder: Path | None = None
) -> list[Example | None]:
    format_, _, place = text.partition(":")
    path = Path(place)
    reading = Reading(kind, path.name, None, path, image_folder)  # type: ignore[arg-type]
    return [READERS[format_](row, reading) for row in read_rows(path)]  # type: ignore[index]


def texts(example: Example | None) -> list[tuple[str, str]]:
    assert example is not None
    return [(message.role, message.content) for message in example.messages]


def test_upstream_is_harm_in_one_set_and_refusals_in_the_other(tmp_path: Path) -> None:
    source = write_all(tmp_path)["upstream"]
    harmful, refusals = read(source, kind="circuit_breaker"), read(source)
    assert len(harmful) == len(refusals) == len(ANIMALS)
    for row, bad, good in zip(upstream_rows(), harmful, refusals, strict=True):
        assert texts(bad) == [("user", row["prompt"]), ("assistant", row["output"])]
        assert texts(good) == [("user", row["prompt"]), ("assistant", row["llama3_output"])]
    assert harmful[0] is not None
    assert refusals[0] is not None
    assert (harmful[0].kind, harmful[0].task) == ("circuit_breaker", "harmful")
    assert (refusals[0].kind, refusals[0].task) == ("retain", "refusal")
    assert harmful[0].category == "zorching"
    provenance = harmful[1].provenance  # type: ignore[union-attr]
    assert provenance.generator == "circuit_breakers_train.json"
    assert provenance.source_id == f"{tmp_path}/circuit_breakers_train.json[1]"
    assert provenance.settings == {"format": "upstream"}


def test_chat_keeps_every_turn_whatever_the_file(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(chat_rows()), tmp_path / "a.parquet")
    write_json(tmp_path / "b.json", chat_rows())
    write_lines(tmp_path / "c.jsonl", chat_rows())
    write_lines(tmp_path / "d.json", chat_rows())  # JSON lines by another name
    files = [read(f"chat:{path}") for path in sorted(tmp_path.iterdir())]
    assert len(files) == 4
    for examples in files:
        assert [[{"role": r, "content": c} for r, c in texts(e)] for e in examples] == [
            row["messages"] for row in chat_rows()
        ]
        assert [e.id for e in examples if e] == [e.id for e in files[0] if e]
        assert examples[0] is not None
        assert examples[0].provenance.source_id == "p-dog"


def test_xstest_takes_full_compliance_only(tmp_path: Path) -> None:
    examples = read(write_all(tmp_path)["xstest"])
    assert [example is not None for example in examples] == [True, False, True, False]
    assert texts(examples[2]) == [
        ("user", "how do i kill time 2 ?"), ("assistant", "read .\nor 2 ."),
    ]  # fmt: skip


def test_llava_instruct_finds_its_images_and_drops_the_token(tmp_path: Path) -> None:
    source = write_all(tmp_path)["llava"]
    examples = read(source, image_folder=tmp_path / "pictures")
    for animal, example in zip(ANIMALS, examples, strict=True):
        assert texts(example) == [
            ("user", "what is it ?"), ("assistant", f"a {animal} ."),
            ("user", "where ?"), ("assistant", "on the left ."),
        ]  # fmt: skip
        assert example is not None
        assert example.image == f"pictures/{animal}.png"
        image = resolve_image(tmp_path / "llava_instruct.json", example.image)
        assert image == tmp_path / "pictures" / f"{animal}.png"
        assert example.task == "question"
    beside = read(source)[0]  # without --image-folder: beside the file
    assert beside is not None
    assert beside.image == "dog.png"


def test_mmcb_records_come_back_as_they_are(data_folder: Path, tmp_path: Path) -> None:
    file = data_folder / "retain.jsonl"
    examples = read(f"mmcb:{file}")
    assert [e.model_dump_json() for e in examples if e] == file.read_text().splitlines()
    listed = write_json(
        data_folder / "listed.json", [json.loads(line) for line in file.read_text().splitlines()]
    )
    try:
        assert read(f"mmcb:{listed}") == examples
    finally:
        listed.unlink()


def _bad(rows: list[dict[str, Any]], change: Any) -> list[dict[str, Any]]:
    change(rows[1])
    return rows


def _turn(row: dict[str, Any], key: str, number: int, **values: Any) -> None:
    row[key][number].update(values)


BAD_CHATS = [
    (lambda r: r.pop("messages"), "messages: must be a list of role and content"),
    (lambda r: r.update(messages="hello"), "messages: must be a list of role and content"),
    (lambda r: _turn(r, "messages", 0, role="human"), r"messages\[0\].role: 'human' is none of"),
    (lambda r: _turn(r, "messages", 1, content=None), r"messages\[1\].content: must be text"),
    (lambda r: _turn(r, "messages", 3, content=" "), r"messages\[3\]: the answer is empty"),
    (lambda r: r["messages"].pop(1), r"messages\[1\]: is the user's turn, not the assistant's"),
    (lambda r: r["messages"].pop(), "messages: must end with the assistant's answer"),
    (lambda r: r.update(images=["a.png"]), "has images, and chat is for text"),
]


@pytest.mark.parametrize(("change", "problem"), BAD_CHATS)
def test_a_bad_chat_is_named_by_file_and_line(tmp_path: Path, change: Any, problem: str) -> None:
    file = write_lines(tmp_path / "bad.jsonl", _bad(chat_rows(), change))
    with pytest.raises(MmcbError, match=rf"bad\.jsonl:2: {problem}"):
        read(f"chat:{file}")


BAD_LLAVA = [
    (lambda r: _turn(r, "conversations", 1, **{"from": "tool"}), r"\[1\].from: 'tool' is none of"),
    (lambda r: _turn(r, "conversations", 2, value="<image> ?"), r"\[2\]: one <image> is taken"),
    (lambda r: _turn(r, "conversations", 0, value="<image> <image>"), r"\[0\]: one <image> is"),
    (lambda r: r.pop("image"), r"\[0\]: says <image>, and the record names no image"),
]


@pytest.mark.parametrize(("change", "problem"), BAD_LLAVA)
def test_a_bad_llava_record_is_named_by_index(tmp_path: Path, change: Any, problem: str) -> None:
    file = write_json(tmp_path / "bad.json", _bad(llava_rows(), change))
    with pytest.raises(MmcbError, match=rf"bad\.json\[1\]: conversations{problem}"):
        read(f"llava:{file}")


def test_a_llava_image_must_be_a_name(tmp_path: Path) -> None:
    file = write_json(tmp_path / "bad.json", _bad(llava_rows(), lambda r: r.update(image=7)))
    with pytest.raises(MmcbError, match=r"bad\.json\[1\]: image: must be a file's name"):
        read(f"llava:{file}")


def test_llava_records_without_an_image_are_text(tmp_path: Path) -> None:
    rows = llava_rows()[:1]
    del rows[0]["image"]
    rows[0]["conversations"][0]["value"] = "what is a dog ?"
    (example,) = read(f"llava:{write_json(tmp_path / 'text.json', rows)}")
    assert example is not None
    assert (example.image, example.task) == (None, "instruction")


def test_a_bad_upstream_record_is_named_by_index(tmp_path: Path) -> None:
    for value, problem in ((None, "missing"), (3, "must be text, is int"), ("", "is empty")):
        rows = _bad(upstream_rows(), lambda r, v=value: r.update(llama3_output=v))
        file = write_json(tmp_path / "bad.json", rows)
        with pytest.raises(MmcbError, match=rf"bad\.json\[1\]: llama3_output: {problem}"):
            read(f"upstream:{file}")
        assert len(read(f"upstream:{file}", kind="circuit_breaker")) == len(rows)


def test_a_bad_xstest_row_is_named_by_the_line_it_begins_on(tmp_path: Path) -> None:
    rows = xstest_rows()
    rows[2]["completion"] = "  "
    file = write_csv(tmp_path / "bad.csv", rows)
    with pytest.raises(MmcbError, match=r"bad\.csv:6: completion: is empty"):
        read(f"xstest:{file}")  # rows 0 and 1 take two lines each
    with file.open("a") as handle:
        handle.write("9,a,b,c,d,e,f,2_full_refusal,h,too many\n")
    with pytest.raises(MmcbError, match=r"bad\.csv:9: has more fields than the header"):
        list(read_rows(file))


def test_a_bad_mmcb_record_is_named_by_line(data_folder: Path, tmp_path: Path) -> None:
    lines = (data_folder / "retain.jsonl").read_text().splitlines(keepends=True)
    file = tmp_path / "bad.jsonl"
    file.write_text(lines[0] + "\n" + lines[1].replace('"messages"', '"turns"'))
    with pytest.raises(MmcbError, match=r"bad\.jsonl:3: not a valid Example record: messages"):
        read(f"mmcb:{file}")
    file.write_text(lines[0])
    with pytest.raises(MmcbError, match=r"bad\.jsonl:1: is a retain example, not a circuit_br"):
        read(f"mmcb:{file}", kind="circuit_breaker")
    file.write_text(lines[0] + lines[1][:50])
    with pytest.raises(MmcbError, match=r"bad\.jsonl:2: the last line is cut off"):
        read(f"mmcb:{file}")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", b"[1, 2]", r"a\.json\[0\]: must be a JSON object, is int"),
        ("a.json", b"[{]", r"a\.json: not JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a"\n', r"a\.jsonl:2: not JSON"),
        ("a.parquet", b"no", r"a\.parquet: not Parquet"),
        ("a.jsonl", b"\xff\xfe\n", r"a\.jsonl: not UTF-8"),
        ("a.txt", b"", r"a\.txt: a file of records ends in one of \.csv, \.parquet"),
    ],
)
def test_a_broken_file_says_so(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MmcbError, match=problem):
        list(read_rows(tmp_path / name))


def test_public_files(shared_data: Path, tmp_path: Path) -> None:
    """Public data as it was published: what fits is read, what does not is named."""
    demo = shared_data / "llamafactory_demo"
    alpaca = json.loads((demo / "alpaca_en_demo.json").read_text())
    rows = [
        {"messages": [{"role": "user", "content": f"{row['instruction']}\n{row['input']}".strip()},
                      {"role": "assistant", "content": row["output"]}]}
        for row in alpaca if row["output"].strip()
    ]  # fmt: skip
    assert len(read(f"chat:{write_lines(tmp_path / 'alpaca.jsonl', rows)}")) == len(rows) > 900
    with pytest.raises(
        MmcbError, match=r"glaive.*\[0\]: conversations\[3\]\.from: 'function_call'"
    ):
        read(f"llava:{demo / 'glaive_toolcall_en_demo.json'}")
    with pytest.raises(MmcbError, match=r"mllm_demo\.json\[0\]: has images, and chat is for text"):
        read(f"chat:{demo / 'mllm_demo.json'}")
    with pytest.raises(MmcbError, match=r"v1_sft_demo\.jsonl:1: messages\[0\]\.content: must be"):
        read(f"chat:{demo / 'v1_sft_demo.jsonl'}")
    with pytest.raises(MmcbError, match=r"xstest_prompts\.csv:2: final_label: missing \(there is"):
        read(f"xstest:{shared_data / 'xstest' / 'xstest_prompts.csv'}")


def test_photographs_of_coco_below_the_image_folder(shared_data: Path, tmp_path: Path) -> None:
    """Records as LLaVA-Instruct-150K has them: bare names of COCO's files."""
    folder = shared_data / "coco" / "train2017"
    names = sorted(path.name for path in folder.glob("*.jpg"))[:5]
    assert names
    rows = [{**row, "image": name} for row, name in zip(llava_rows(), names, strict=False)]
    file = write_json(tmp_path / "llava_instruct.json", rows)
    for name, example in zip(names, read(f"llava:{file}", image_folder=folder), strict=True):
        assert example is not None
        assert example.image is not None
        assert resolve_image(file, example.image) == folder / name
