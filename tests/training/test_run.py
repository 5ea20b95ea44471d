"""What is settled before a run trains: which folder it goes on in, whether it may be evaluated."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmcb.errors import MmcbError
from mmcb.models.families import FAMILIES
from mmcb.training import run as run_module
from mmcb.training.run import _unfinished, wants_evaluation
from tests.training.helpers import tiny_config


@pytest.mark.parametrize(
    ("status", "goes_on"),
    [("started", True), ("interrupted", True), ("failed", True), ("complete", False)],
)
def test_whatever_did_not_come_to_its_end_goes_on(
    tmp_path: Path, status: str, goes_on: bool
) -> None:
    config, run = tiny_config(), tmp_path / "runs" / "one"
    manifest = {"command": "training", "status": status, "started": "1", "inputs": {}}
    run.mkdir(parents=True)
    settings = config.model_dump(mode="json")
    (run / "manifest.json").write_text(json.dumps({**manifest, "config": settings}))
    assert _unfinished(config, {}, tmp_path / "runs") == (run if goes_on else None)


def test_an_evaluation_that_does_not_suit_the_model_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if its weights were here.
    monkeypatch.setattr(run_module, "locate", lambda name: SimpleNamespace(family=FAMILIES[name]))
    asked = tiny_config(model="llava-next", evaluate=True)
    with pytest.raises(MmcbError, match=r"llava-next has never heard of") as refused:
        wants_evaluation(asked)
    assert "--behaviors FILE" in str(refused.value.hint)
    assert not wants_evaluation(asked.model_copy(update={"evaluate": None}))
    assert wants_evaluation(tiny_config(evaluate=True))
    assert not wants_evaluation(tiny_config(evaluate=False))
