"""Captioning and synthesis of real photographs by vLLM, in this process and as two servers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmcb.captioning.caption import caption_images
from mmcb.captioning.config import CaptioningConfig
from mmcb.generation.config import EngineConfig
from mmcb.generation.protocol import TextGenerator
from mmcb.records import Caption, Example
from mmcb.store import read_records
from mmcb.synthesis.config import preset
from mmcb.synthesis.pipeline import start_run, synthesize

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

MODEL = "tiny-llava-next"
COUNT = 6


def check(out: Path, engine: str) -> None:
    """A caption of every picture, and sets that the models wrote on this engine."""
    captions = list(read_records(out / "captions.jsonl", Caption))
    assert len(captions) == COUNT
    assert all(caption.text for caption in captions)
    harmful = list(read_records(out / "circuit_breaker.jsonl", Example))
    retain = list(read_records(out / "retain.jsonl", Example))
    assert len(harmful) >= COUNT // 2
    assert {"caption", "question", "benign_howto"} <= {example.task for example in retain}
    written = [*captions, *harmful, *retain]
    assert {record.provenance.settings["engine"] for record in written} == {engine}
    assert (out / "gallery" / "index.html").is_file()


def test_in_this_process(
    vlm: TextGenerator, writer: TextGenerator, shared_data: Path, tmp_path: Path
) -> None:
    root: dict[str, Any] = {"coco_root": shared_data / "coco", "out": tmp_path}
    root |= {"num_images": COUNT, "engine": EngineConfig(name="vllm")}
    make = {MODEL: vlm, "tiny-mistral": writer}.__getitem__
    captioned = caption_images(CaptioningConfig(model=MODEL, max_new_tokens=64, **root), make=make)
    config = preset(MODEL).model_copy(update={**root, "refusal_fraction": 1.0})
    with start_run(config) as run:
        synthesize(config, captioned, run=run, make=make)
    check(tmp_path, "vllm")


def test_as_servers(vlm_url: str, writer_url: str, shared_data: Path, tmp_path: Path) -> None:
    flags = ["--coco-root", shared_data / "coco", "--out", tmp_path, "--model", MODEL]
    flags += ["--num-images", COUNT, "--engine", "server", "--server-url", vlm_url, writer_url]
    for command in ("mmcb.captioning", "mmcb.synthesis"):
        words = [sys.executable, "-m", command, *flags]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    check(tmp_path, "server")


def test_the_command_in_process_ends_without_a_traceback(
    pictures_world: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "mmcb.captioning", "--coco-root", pictures_world]
    command += ["--out", tmp_path, "--model", MODEL, "--engine", "vllm"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(read_records(tmp_path / "captions.jsonl", Caption))) == 4
    # Neither vLLM's own end, nor a task or a piece of shared memory that it left.
    for trouble in ("Traceback", "was destroyed", "leaked"):
        assert trouble not in done.stderr
