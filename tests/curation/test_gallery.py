"""The gallery: pages, veils, escaping, in a headless Chromium too; Parquet and the card."""

import re
import shutil
import subprocess
from pathlib import Path

import datasets
import pytest
from PIL import Image

from mmcb.curation.card import Card, FilterRow, write_card
from mmcb.curation.gallery import PER_PAGE, write_gallery
from mmcb.curation.parquet import write_parquet
from mmcb.curation.summary import summarize
from mmcb.record_index import RecordIndex
from mmcb.records import Caption, Example, Message, Provenance
from mmcb.store import RecordFile, replace_records

MADE = Provenance(generator="w", seed=1, source_id="c1")
HOSTILE = '</span></label><script>document.title="run"</script><img src=x onerror=alert(1)>&amp;'


def example(number: int, *, kind: str = "circuit_breaker", image: str | None = None) -> Example:
    harmful = kind == "circuit_breaker"
    return Example.model_validate(
        {
            "id": f"{kind}{number:05d}",
            "kind": kind,
            "task": "harmful" if harmful else "refusal",
            "category": ("zorching", "grindling")[number % 2],
            "split": "heldout" if number % 10 == 0 else "train",
            "image": image,
            "messages": (
                Message(role="user", content=f"how do i zorch {number} ?"),
                Message(role="assistant", content=HOSTILE if number == 3 else "first , zorch ."),
            ),
            "provenance": MADE,
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sets of 120 and 5 records in `a folder`, with a picture beside it."""
    Image.new("RGB", (20, 10), (200, 30, 30)).save(tmp_path / "red dog #1.png")
    out = tmp_path / "a folder"
    harmful = [example(n, image="../red dog #1.png" if n % 2 else None) for n in range(120)]
    harmful[4] = example(4, image="../gone.png")
    replace_records(out / "circuit_breaker.jsonl", harmful)
    replace_records(out / "retain.jsonl", [example(n, kind="retain") for n in range(5)])
    return out


def sets(folder: Path) -> list[RecordFile[Example]]:
    return [RecordFile(path, Example) for path in paths(folder)]


def paths(folder: Path) -> list[Path]:
    return [folder / name for name in ("circuit_breaker.jsonl", "retain.jsonl")]


def pages(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "gallery").glob("*.html"))}


def test_every_record_once_and_no_request(folder: Path) -> None:
    (folder / "gallery").mkdir()
    (folder / "gallery" / "circuit_breaker-0009.html").write_text("of an earlier, bigger set")
    caption = Caption(id="c1", image="a.png", text="a <b>dog</b>", provenance=MADE)
    replace_records(folder / "captions.jsonl", [caption])
    captions = RecordIndex(folder / "captions.jsonl", Caption)
    index = write_gallery(paths(folder), title="t", captions=captions)
    found = pages(folder)
    assert index == folder / "gallery" / "index.html"
    assert list(found) == [
        *(f"circuit_breaker-{n:04d}.html" for n in (1, 2, 3)),
        "index.html",
        "retain-0001.html",
    ]
    ids = [
        i for text in found.values() for i in re.findall(r'<article class="entry" id="(\w+)"', text)
    ]
    assert len(ids) == len(set(ids)) == 125
    for name, text in found.items():
        assert "default-src 'none'" in text
        assert "<script" not in text
        assert not re.findall(r'(?:src|href)="(?:https?:|//)', text)
        for link in re.findall(r'href="([^"#]+)', text):
            assert (folder / "gallery" / link).is_file(), f"{name} -> {link}"
    assert 'src="../../red%20dog%20%231.png"' in found["circuit_breaker-0001.html"]
    assert sum("The picture is not there." in text for text in found.values()) == 1
    assert "a &lt;b&gt;dog&lt;/b&gt;" in found["retain-0001.html"]


def test_what_is_veiled(folder: Path) -> None:
    write_gallery(paths(folder), title="t")
    found = pages(folder)
    assert found["circuit_breaker-0001.html"].count('class="veil"') == 2 * PER_PAGE
    # Of a refusal only the request.
    assert found["retain-0001.html"].count('class="veil"') == 5


def test_ten_thousand_records(tmp_path: Path) -> None:
    path = tmp_path / "circuit_breaker.jsonl"
    replace_records(path, (example(n) for n in range(10_000)))
    write_gallery([path], title="t")
    found = pages(tmp_path)
    assert len(found) == 201
    assert max(map(len, found.values())) < 300_000


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium here")
    return found


def test_in_a_browser(folder: Path, tmp_path: Path) -> None:
    """Its picture is shown from disk, its script is not run, its text is blurred."""
    write_gallery(paths(folder), title="t")
    (page,) = [p for p in (folder / "gallery").glob("c*.html") if "onerror" in p.read_text()]
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'p'}"]
    done = subprocess.run(
        [chromium(), *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True
    )
    dom = done.stdout
    assert "<title>t</title>" in dom
    assert "<script" not in dom
    assert "&lt;script&gt;" in dom
    assert dom.count("<article") == PER_PAGE
    shot = tmp_path / "shot.png"
    subprocess.run(
        [chromium(), *flags, "--window-size=1000,800", f"--screenshot={shot}", page.as_uri()],
        capture_output=True,
    )
    with Image.open(shot) as picture:
        colors = picture.convert("RGB").getcolors(2**24)
    assert colors is not None
    assert any(count > 500 and color == (200, 30, 30) for count, color in colors)


def test_parquet_holds_the_images(folder: Path, tmp_path: Path) -> None:
    path = folder / "circuit_breaker.jsonl"
    train, heldout = write_parquet(path, RecordFile(path, Example))
    assert heldout.name == "circuit_breaker-heldout.parquet"
    loaded = datasets.load_dataset(
        "parquet", data_files=str(train), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == 108
    with_image = [row for row in loaded if row["image"] is not None]
    assert len(with_image) == 60
    assert with_image[0]["image"].size == (20, 10)
    assert loaded[0]["messages"][1]["role"] == "assistant"


def test_card(folder: Path, tmp_path: Path) -> None:
    card = Card(
        title="Sets",
        made_by="Made by hand.",
        command="python -m x",
        sets=tuple(summarize(records.path, records, what="w") for records in sets(folder)),
        filters=(FilterRow("language", "en", 7, 2),),
        files={"report.json": "counts"},
        licences={1: 3, 2: 4, 9: 1, None: 2},
        licence_names={1: "Attribution-NonCommercial-ShareAlike License", 2: "My own"},
        heldout=("grindling",),
        mapping={"zorching": {"paper": ["Zorch"]}},
    )
    write_card(folder, card)
    text = (folder / "README.md").read_text()
    assert "| zorching | 48 | 12 |" in text
    assert "| grindling | 60 | 0 |" in text
    assert "| language | en | 7 | 2 |" in text
    assert "| CC BY-NC-SA 2.0 | 3 |" in text
    assert "| My own | 4 |" in text  # a folder of another make numbers its own
    assert "| number 9 | 1 |" in text
    assert "| not stated | 2 |" in text
    assert "| zorching | - | - | Zorch |" in text
    loaded = datasets.load_dataset(
        str(folder), "retain", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == 5
