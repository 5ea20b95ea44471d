"""Where a model's files are, found cheaply: no torch, no weights, seconds of network at most."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.models.families import FAMILIES, Family, known_family
from mmcb.models.generic import row_or_generic

HUB_TIMEOUT_S = 4.0
"""How long to wait for the hub before saying that it cannot be reached."""


@dataclass(frozen=True, slots=True)
class Location:
    """A model that can be loaded."""

    source: str
    """Folder or hub id, for `from_pretrained`."""
    family: Family | None
    """The row, when it is known without reading a config from the network."""
    local_only: bool
    """Everything is on this disk: no need to ask the network."""


def locate(name: str) -> Location:
    """Find `name`: a family of the table, a folder, or a hub id.

    Raises:
        MmcbError: unknown name; a folder without a model; or a hub checkpoint that is neither in
            the local cache nor reachable (said within about five seconds).
    """
    family = known_family(name)
    if family is not None and family.folder is not None:
        return _locate_folder(family.folder, name=name, family=family)
    if family is None and os.path.isdir(name):
        return _locate_folder(Path(name), name=name, family=None)
    hub_id = name if family is None or family.hub_id is None else family.hub_id
    if _is_cached(hub_id):
        return Location(source=hub_id, family=family, local_only=True)
    _require_hub(hub_id, name=name, family=family)
    return Location(source=hub_id, family=family, local_only=False)


def check_model(name: str) -> None:
    """Say now, not after an hour of other work, that `name` cannot be loaded.

    Raises:
        MmcbError: see `locate`.
    """
    locate(name)


def _locate_folder(folder: Path, *, name: str, family: Family | None) -> Location:
    config_path = folder / "config.json"
    if not config_path.is_file():
        if family is not None:
            raise MmcbError(
                f"the weights of {name} are missing: {folder} has no config.json",
                hint="install mmcb again, or make them with: python -m mmcb.miniature.pretrain",
            )
        raise MmcbError(
            f"{folder} is not a model folder: it has no config.json",
            hint=f"give a folder written by save_pretrained, or one of: {', '.join(FAMILIES)}",
        )
    if not any(folder.glob("*.safetensors")):
        raise MmcbError(
            f"{folder} has no *.safetensors file; mmcb loads no other weight format",
            hint="save the model again with save_pretrained(folder)",
        )
    config = read_json(config_path)
    return Location(
        source=str(folder),
        family=family or row_or_generic(config, name=str(folder)),
        local_only=True,
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        MmcbError: it is not there or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MmcbError(
            f"cannot read {path}: {error}", hint="check that the folder is whole"
        ) from error
    if not isinstance(value, dict):
        raise MmcbError(f"{path} is not a JSON object", hint="check that the folder is whole")
    return value


def _is_cached(hub_id: str) -> bool:
    """Whether config and all safetensors of `hub_id` are in the local Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache

    def cached(filename: str) -> Path | None:
        found = try_to_load_from_cache(hub_id, filename)
        return Path(found) if isinstance(found, str) else None

    if cached("config.json") is None:
        return False
    if cached("model.safetensors") is not None:
        return True
    index = cached("model.safetensors.index.json")
    if index is None:
        return False
    shards = set(read_json(index).get("weight_map", {}).values())
    return bool(shards) and all(cached(shard) is not None for shard in shards)


def _require_hub(hub_id: str, *, name: str, family: Family | None) -> None:
    """Raise unless the hub says that it would give us `hub_id`."""
    from huggingface_hub import constants

    called = hub_id if name == hub_id else f"{name} ({hub_id})"
    substitute = family.substitute if family is not None else "tiny-llava-next"
    hint = f"a model that needs no download: {same_command(name, substitute=substitute)}"
    if constants.HF_HUB_OFFLINE:
        raise MmcbError(
            f"{called} is not in the local Hugging Face cache, and HF_HUB_OFFLINE is set", hint=hint
        )
    status = _head_status(f"{constants.ENDPOINT}/{hub_id}/resolve/main/config.json")
    if status is None:
        raise MmcbError(
            f"{called} is not in the local Hugging Face cache, and {constants.ENDPOINT} "
            "cannot be reached",
            hint=hint,
        )
    if status in (401, 403):
        raise MmcbError(
            f"{called} is gated or does not exist: the hub answered {status}",
            hint=f"accept its licence at {constants.ENDPOINT}/{hub_id}, then run: hf auth login",
        )
    if status >= 400:
        raise MmcbError(f"{called} cannot be had: the hub answered {status}", hint=hint)


def _head_status(url: str) -> int | None:
    """HTTP status of a HEAD request, None when there is no answer in `HUB_TIMEOUT_S`.

    In a thread, because resolving a name has no timeout of its own.
    """
    from huggingface_hub import get_token

    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer: list[int] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S) as response:
                answer.append(int(response.status))
        except urllib.error.HTTPError as error:
            answer.append(int(error.code))
        except (OSError, ValueError):
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_S + 0.5)
    return answer[0] if answer else None


def same_command(name: str, *, substitute: str) -> str:
    """The command being run with `substitute` in the place of the model `name`."""
    script, *arguments = sys.argv or ["mmcb"]
    path = Path(script)
    if script.startswith("-"):
        return f"--model {substitute}"
    if path.name == "__main__.py" and "mmcb" in path.parts:
        start = len(path.parts) - 1 - path.parts[::-1].index("mmcb")
        script = "python -m " + ".".join(path.parts[start:-1])
    else:
        script = shlex.quote(path.name or "mmcb")
    replaced = [
        substitute
        if argument == name
        else argument.replace(f"={name}", f"={substitute}")
        if argument.endswith(f"={name}")
        else argument
        for argument in arguments
    ]
    if replaced == arguments:
        replaced += ["--model", substitute]
    return " ".join([script, *(shlex.quote(argument) for argument in replaced)])
