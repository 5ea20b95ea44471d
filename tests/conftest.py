"""What all tests share: few threads, no network, and the shared data where there is any."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tiny_models import make_tiny_llm, make_tiny_vlm

if TYPE_CHECKING:
    from mmcb.models.loading import LoadedModel

# Before anything imports torch or the hub; subprocesses of the tests inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:  # two at a time: more threads would wait for one another
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout (COCO photographs, public question sets)."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return folder


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA-NeXT."""
    return make_tiny_vlm(tmp_path_factory.mktemp("models") / "vlm")


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mistral."""
    return make_tiny_llm(tmp_path_factory.mktemp("models") / "llm")


@pytest.fixture(scope="session")
def vlm(vlm_folder: Path) -> LoadedModel:
    """The random LLaVA-NeXT, loaded; shared by tests that leave it as it is."""
    from mmcb.models.loading import load_model

    return load_model(str(vlm_folder))


@pytest.fixture(scope="session")
def llm(llm_folder: Path) -> LoadedModel:
    """The random Mistral, loaded; shared by tests that leave it as it is."""
    from mmcb.models.loading import load_model

    return load_model(str(llm_folder))
