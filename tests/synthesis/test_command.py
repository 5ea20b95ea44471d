"""The command itself: what it says of missing things, and real engines on real photographs."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmcb.errors import MmcbError
from mmcb.records import Caption, Example
from mmcb.store import read_records
from mmcb.synthesis.__main__ import _run
from mmcb.synthesis.config import SynthesisConfig
from tests.captioning.coco_folders import make_coco
from tests.tiny_models import make_tiny_llm, make_tiny_vlm


def test_missing_coco_on_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmcb.synthesis", "--coco-root", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: no COCO folder at ")
    assert hint.endswith("--coco-root data/miniature --model tiny-llava-next --writer tiny-mistral")


def test_missing_models_are_said_before_any_work(tmp_path: Path) -> None:
    root, out = make_coco(tmp_path / "coco"), tmp_path / "out"
    blind = SynthesisConfig(coco_root=root, out=out, model="tiny-mistral", writer="tiny-mistral")
    with pytest.raises(MmcbError, match="tiny-mistral takes no images"):
        _run(blind)
    absent = blind.model_copy(update={"source": "coco", "writer": "nobody/no-such-writer"})
    with pytest.raises(MmcbError, match="--writer: nobody/no-such-writer") as error:
        _run(absent)
    assert str(error.value.hint).endswith("--model tiny-llava-next --writer tiny-mistral")
    with pytest.raises(MmcbError, match="no taxonomy 'x'"):
        _run(blind.model_copy(update={"source": "coco", "taxonomy": "x"}))
    for flag, name, text, problem in (
        ("evaluation_sets", "empty.txt", "\n", "holds no prompt"),
        ("tool_sets", "odd.jsonl", '{"a": 1}\n', "odd.jsonl:1: has no prompt"),
        ("instructions", "odd.jsonl", '{"a": 1}\n', "odd.jsonl:1: not a valid Example"),
        ("few_shot", "odd.jsonl", '{"a": 1}\n', "odd.jsonl:1: not an example to show"),
    ):
        path = tmp_path / name
        path.write_text(text)
        value = (path,) if flag.endswith("sets") else path
        with pytest.raises(MmcbError, match=problem):
            _run(blind.model_copy(update={"source": "coco", flag: value}))
    assert not out.exists()


def test_no_readable_image(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "coco", train=1, val=0)
    (root / "train2017" / "000000000001.jpg").write_bytes(b"")
    config = SynthesisConfig(
        coco_root=root,
        out=tmp_path / "out",
        model="tiny-mistral",
        writer="tiny-mistral",
        source="coco",
    )
    with pytest.raises(MmcbError, match="none of the 1 images"):
        _run(config)


def test_untrained_models_on_real_photographs(shared_data: Path, tmp_path: Path) -> None:
    # Random weights write gibberish, the worst that a small model can do on alien pictures.
    config = SynthesisConfig(
        coco_root=shared_data / "coco",
        model=str(make_tiny_vlm(tmp_path / "vlm")),
        writer=str(make_tiny_llm(tmp_path / "llm")),
        taxonomy="miniature",
        out=tmp_path / "out",
        num_images=3,
        max_retries=1,
        caption_max_new_tokens=4,
        max_new_tokens=4,
        refusal_max_new_tokens=4,
    )
    for _ in range(2):
        _run(config)
    assert len(list(read_records(tmp_path / "out" / "captions.jsonl", Caption))) == 3
    assert not list(read_records(tmp_path / "out" / "circuit_breaker.jsonl", Example))
    assert len((tmp_path / "out" / "dropped.jsonl").read_text().splitlines()) >= 9
