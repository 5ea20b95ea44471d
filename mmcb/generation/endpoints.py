"""Which server has a model, under what name; and what went wrong with a server, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmcb.errors import MmcbError
from mmcb.generation.client import KEY_VARIABLE, Client, SilentServerError, import_openai
from mmcb.generation.config import EngineConfig
from mmcb.generation.in_flight import BackgroundLoop
from mmcb.models.families import FAMILIES

_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model behind a server."""

    url: str
    model: str
    """The server's name for it."""
    is_vllm: bool = False
    """Whether the server is vLLM, which takes more settings than OpenAI's API has."""
    adds_start: bool = False
    """vLLM only: whether it must be told to put the beginning-of-sequence token in front."""


def find_endpoint(config: EngineConfig, model: str) -> Endpoint:
    """The first of the servers that has `model`, by the name, hub id or folder of its family.

    A server that lists no models is taken at its word: it gets the name as it stands.

    Raises:
        MmcbError: a server does not answer, or none has the model; openai is not installed.
    """
    loop = BackgroundLoop()
    try:
        return loop.run(_find(config, model))
    finally:
        loop.close()


async def _find(config: EngineConfig, model: str) -> Endpoint:
    openai = import_openai()
    served: list[str] = []
    for url in config.server_url:
        client = Client(config, url)
        async with client.api:
            try:
                listed = list((await client.wait_for(client.api.models.list())).data or ())
            except (openai.NotFoundError, AttributeError, TypeError, ValueError):
                return Endpoint(url, model)
            except (openai.OpenAIError, SilentServerError) as error:
                raise explain(error, url=url, config=config) from None
            owners = {str(entry.id): str(entry.owned_by) for entry in listed}
            for name in _names_of(model):
                if name in owners:
                    is_vllm = owners[name] == "vllm"
                    start = is_vllm and await _adds_start(client, url, name)
                    return Endpoint(url, name, is_vllm=is_vllm, adds_start=start)
            served += owners
    raise MmcbError(
        f"no model {model!r} on {' or '.join(config.server_url)}, only {_shown(served)}",
        hint=f"name one of these, or start: vllm serve CHECKPOINT --served-model-name {model}",
    )


def explain(error: Exception, *, url: str, config: EngineConfig) -> MmcbError:
    """The sentence for an error that ends a run; what was answered before is kept."""
    openai = import_openai()
    status = getattr(error, "status_code", None)
    hint = "the same command goes on from here"
    retried = f"after {config.server_retries} retries"
    if isinstance(error, SilentServerError):
        problem = f"sent nothing for {config.server_timeout:g} s"
        hint = f"see whether it still works; if it is but slow, raise --server-timeout; {hint}"
    elif isinstance(error, openai.APIConnectionError):
        cause = _first_line(error.__cause__ or error)
        problem = f"not reached, or the connection was cut, {retried}: {cause}"
        hint = f"see whether the server runs; {hint}"
    elif status in (401, 403):
        problem = f"refused with {status}: {_first_line(error)}"
        hint = f"put the server's key into the environment variable {KEY_VARIABLE}"
    elif status == 429:
        problem = f"too many requests (429), {retried}: {_first_line(error)}"
        hint = f"lower --concurrency or raise --server-retries; {hint}"
    elif status is not None:
        problem = f"answered {status}, {retried if status >= 500 else 'not retried'}"
        problem += f": {_first_line(error)}"
    elif isinstance(error, openai.APIError):
        problem = f"broke off an answer: {_first_line(error)}"
    else:
        problem = f"the answer is no chat completion: {_first_line(error)}"
        hint = "see whether --server-url is that of an OpenAI-compatible server"
    return MmcbError(f"server {url}: {problem}", hint=hint)


def _names_of(model: str) -> list[str]:
    """What a server may call the model, the likeliest first."""
    family = FAMILIES.get(model)
    if family is None:
        family = next((row for row in FAMILIES.values() if row.hub_id == model), None)
    others = [] if family is None else [family.name, family.hub_id, family.folder]
    return list(dict.fromkeys([model, *(str(other) for other in others if other is not None)]))


async def _adds_start(client: Client, url: str, name: str) -> bool:
    """Whether the tokenizer of a vLLM server begins texts with a token that its chats lack.

    LLaVA-1.6-Mistral's template leaves `<s>` to the tokenizer, and vLLM's chats then go without it.
    """
    route = f"{url.removesuffix('/v1')}/tokenize"
    chat = {"messages": [{"role": "user", "content": "a"}], "add_special_tokens": False}

    async def tokens(body: dict[str, Any]) -> list[int]:
        asked = client.api.post(route, cast_to=object, body={"model": name, **body})
        return list((await client.wait_for(asked))["tokens"])

    try:
        start = (await tokens({"prompt": "", "add_special_tokens": True}))[:1]
        return bool(start) and (await tokens(chat))[:1] != start
    except Exception:
        # Not every vLLM has the route; then its chats are taken as they are.
        return False


def _shown(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    shown = ", ".join(names[:_NAMES_SHOWN]) or "nothing"
    return f"{shown} and {more} more" if more > 0 else shown


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
