"""Putting a run's adapter, or its merged checkpoint, on the Hugging Face hub.

Only on an explicit flag, private unless asked otherwise. What is uploaded is the folder with the
weights and their card: no data, no metrics, no path of this disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.log import get_logger
from mmcb.training.config import TrainingConfig

_log = get_logger(__name__)


def check_push(config: TrainingConfig) -> None:
    """Refuse now what could not, or should not, be uploaded after hours of training.

    Raises:
        MmcbError: flags that do not fit, a public push of a merged model that was not confirmed,
            no token, a token that the hub does not know, or no hub to be reached.
    """
    _check_flags(config)
    if config.push_to_hub is None:
        return
    _check_id(config.push_to_hub)
    with _told(config.push_to_hub):
        _api(config.push_to_hub).whoami()


def push(config: TrainingConfig, run: Path) -> str:
    """Upload what `config` names of a finished run; returns the repository's address.

    Raises:
        MmcbError: as `check_push`; a repository that is public already and was not meant to be;
            nothing to upload. The run itself is untouched.
    """
    check_push(config)
    repo = config.push_to_hub
    assert repo is not None
    folder = run / ("merged" if config.push_merged else "adapter")
    if not folder.is_dir():
        raise MmcbError(f"nothing to upload: {folder} is not there")
    api = _api(repo)
    with _told(repo):
        url = api.create_repo(repo, private=not config.push_public, exist_ok=True)
        # A repository that was there keeps its visibility, whatever was asked for.
        if not config.push_public and not api.model_info(repo).private:
            raise MmcbError(
                f"--push-to-hub {repo}: this repository is public; nothing was uploaded",
                hint="make it private, name another one, or confirm with --push-public",
            )
        api.upload_folder(
            repo_id=repo, folder_path=str(folder), commit_message=f"{folder.name} of {run.name}"
        )
    _log.info("uploaded %s to %s (%s)", folder, url, "public" if config.push_public else "private")
    return str(url)


def _check_flags(config: TrainingConfig) -> None:
    flags = {
        "--push-merged": config.push_merged,
        "--push-public": config.push_public,
        "--push-public-merged": config.push_public_merged,
    }
    given = [flag for flag, value in flags.items() if value]
    if config.push_to_hub is None and given:
        raise MmcbError(f"{given[0]} needs --push-to-hub OWNER/NAME")
    if config.push_merged and not config.merge:
        raise MmcbError("--push-merged: no merged checkpoint is written", hint="add --merge")
    if config.push_merged and config.push_public and not config.push_public_merged:
        raise MmcbError(
            "a merged checkpoint is the whole model: making it public may break the base model's"
            " licence, and what it can still be made to say is public then",
            hint="push the adapter alone, leave --push-public out, or add --push-public-merged",
        )


def _check_id(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise MmcbError(f"--push-to-hub {repo}: {error}") from None
    if repo.count("/") != 1:
        raise MmcbError(f"--push-to-hub {repo}: give it as OWNER/NAME")


def _api(repo: str) -> Any:
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise MmcbError(
            f"--push-to-hub {repo}: HF_HUB_OFFLINE is set", hint="unset it, or leave the flag out"
        )
    token = get_token()
    if token is None:
        raise MmcbError(
            f"--push-to-hub {repo}: no token for the hub",
            hint="run `hf auth login`, or set HF_TOKEN to a token that may write",
        )
    return HfApi(token=token)


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """The hub's refusals and an absent network, each in a sentence."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        answer = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise MmcbError(
            f"--push-to-hub {repo}: the hub refused: {answer}",
            hint="check the name, and that the token may write there: hf auth whoami",
        ) from error
    except Exception as error:
        if isinstance(error, MmcbError) or not _is_network(error):
            raise
        raise MmcbError(
            f"--push-to-hub {repo}: {constants.ENDPOINT} cannot be reached",
            hint="give the same command again when it can: a finished run is only uploaded",
        ) from error


def _is_network(error: Exception) -> bool:
    """Whether an HTTP client says that there is no way to the hub (its classes changed twice)."""
    names = {base.__name__ for base in type(error).__mro__}
    return isinstance(error, OSError) or "TransportError" in names
