"""--push-to-hub: guarded, private by default, and every refusal a sentence. Never the network."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError

from mmcb.errors import MmcbError
from mmcb.training.config import TrainingConfig
from mmcb.training.publish import check_push, push
from tests.training.helpers import tiny_config

REPO = "some/breakers"


class FakeHub:
    """What of HfApi is used, with repositories in memory."""

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.uploads: list[tuple[str, list[str]]] = []
        self.tokens: list[str] = []
        self.error: Exception | None = None

    def __call__(self, *, token: str) -> "FakeHub":
        self.tokens.append(token)
        return self

    def whoami(self) -> dict[str, str]:
        if self.error is not None:
            raise self.error
        return {"name": "some"}

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.private.setdefault(repo, private)
        return f"https://hub.invalid/{repo}"

    def model_info(self, repo: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private[repo])

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        assert commit_message
        self.uploads.append((repo_id, sorted(p.name for p in Path(folder_path).iterdir())))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return fake


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for folder in ("adapter", "merged"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "README.md").write_text("card")
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(b"a")
    (tmp_path / "merged/model.safetensors").write_bytes(b"m")
    (tmp_path / "metrics.jsonl").write_text("{}")
    return tmp_path


def asking(**changes: Any) -> TrainingConfig:
    return tiny_config(push_to_hub=REPO, **changes)


def test_nothing_is_asked_of_the_hub_without_the_flag(hub: FakeHub) -> None:
    check_push(tiny_config())
    assert hub.tokens == []


def test_the_adapter_goes_to_a_private_repository_and_nothing_beside_it(
    hub: FakeHub, run: Path
) -> None:
    assert push(asking(), run) == f"https://hub.invalid/{REPO}"
    assert hub.private == {REPO: True}
    assert hub.uploads == [(REPO, ["README.md", "adapter_model.safetensors"])]
    assert set(hub.tokens) == {"hf_test"}


def test_public_and_merged_only_on_their_flags(hub: FakeHub, run: Path) -> None:
    push(asking(push_public=True), run)
    assert hub.private == {REPO: False}
    hub.private.clear()
    push(asking(merge=True, push_merged=True), run)
    assert hub.private == {REPO: True}
    assert hub.uploads[-1] == (REPO, ["README.md", "model.safetensors"])


def test_a_public_push_of_a_merged_model_must_be_confirmed(hub: FakeHub, run: Path) -> None:
    wanted: dict[str, Any] = {"merge": True, "push_merged": True, "push_public": True}
    with pytest.raises(MmcbError, match="whole model") as error:
        check_push(asking(**wanted))
    assert "--push-public-merged" in str(error.value.hint)
    with pytest.raises(MmcbError, match="whole model"):
        push(asking(**wanted), run)
    assert hub.private == {}
    push(asking(**wanted, push_public_merged=True), run)
    assert hub.private == {REPO: False}


def test_a_repository_that_is_public_already_gets_nothing_unasked(hub: FakeHub, run: Path) -> None:
    hub.private[REPO] = False
    with pytest.raises(MmcbError, match="is public; nothing was uploaded"):
        push(asking(), run)
    assert hub.uploads == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"push_to_hub": None, "push_merged": True}, "needs --push-to-hub"),
        ({"push_to_hub": None, "push_public": True}, "needs --push-to-hub"),
        ({"push_merged": True}, "no merged checkpoint"),
        ({"push_to_hub": "no-owner"}, "give it as OWNER/NAME"),
        ({"push_to_hub": "a/b/c"}, "--push-to-hub a/b/c"),
        ({"push_to_hub": "some/bad name"}, "--push-to-hub some/bad name"),
    ],
)
def test_flags_that_do_not_fit_are_one_sentence(
    hub: FakeHub, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(MmcbError, match=said):
        check_push(tiny_config(**{"push_to_hub": REPO, **changes}))
    assert hub.tokens == []


def test_no_token_is_said_before_training(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(MmcbError, match="no token") as error:
        check_push(asking())
    assert "hf auth login" in str(error.value.hint)


def test_offline_is_said_before_training(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2

    hub.error = httpx2.ConnectError("name resolution failed")
    with pytest.raises(MmcbError, match="cannot be reached"):
        check_push(asking())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MmcbError, match="HF_HUB_OFFLINE"):
        check_push(asking())


def test_what_the_hub_refuses_is_one_sentence(hub: FakeHub) -> None:
    import httpx2

    request = httpx2.Request("GET", "https://hub.invalid")
    hub.error = HfHubHTTPError(
        "401 Client Error: Unauthorized\nmore", response=httpx2.Response(401, request=request)
    )
    with pytest.raises(MmcbError, match=r"the hub refused: 401 Client Error: Unauthorized$"):
        check_push(asking())


def test_nothing_to_upload(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="nothing to upload"):
        push(asking(), tmp_path)
    assert hub.private == {}
