"""An `openai` client that can tell a slow server from one that has fallen silent."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable
from typing import Any, TypeVar

from mmcb.errors import MmcbError
from mmcb.generation.config import EngineConfig

KEY_VARIABLE = "OPENAI_API_KEY"

T = TypeVar("T")

_CONNECT_S = 10.0
_LONGEST_PAUSE_S = 120.0
"""How long a server may tell the client to wait before it asks again (`Retry-After`)."""


class SilentServerError(Exception):
    """A server has sent nothing at all for as long as it may."""


def import_openai() -> Any:
    """The `openai` package.

    Raises:
        MmcbError: it is not installed.
    """
    try:
        import openai
    except ImportError:
        raise MmcbError(
            "--engine server needs the openai package", hint="pip install 'mmcb[server]'"
        ) from None
    return openai


class Client:
    """Requests to one server, which all share one clock.

    A request may wait for long behind others on a slow server, so that a time limit for each would
    end runs that are well under way. What counts is whether the server still sends anything, for
    whichever of them: a status line, or a piece of a streamed answer.
    """

    def __init__(self, config: EngineConfig, url: str) -> None:
        openai = import_openai()
        self._limit = config.server_timeout
        self._heard = -math.inf
        self.api = openai.AsyncOpenAI(
            base_url=url,
            # Servers of one's own take any key, but the client insists on one.
            api_key=os.environ.get(KEY_VARIABLE) or "none",
            max_retries=config.server_retries,  # and their back-off are the client's own
            timeout=openai.Timeout(None, connect=_CONNECT_S),
            http_client=openai.DefaultAsyncHttpxClient(
                event_hooks={"request": [self._sent], "response": [self._answered]}
            ),
        )

    def hear(self, *, pause: float = 0.0) -> None:
        """Start the clock anew: the server is there, or has `pause` seconds until it must be."""
        self._heard = max(self._heard, asyncio.get_running_loop().time() + pause)

    async def wait_for(self, work: Awaitable[T]) -> T:
        """The result of a request.

        Raises:
            SilentServerError: the server has sent nothing, for this request or another, for
                `server_timeout` seconds.
        """
        self.hear()
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
        try:
            while not task.done():
                left = self._heard + self._limit - loop.time()
                if left <= 0:
                    raise SilentServerError
                await asyncio.wait([task], timeout=left)
            return task.result()
        finally:
            task.cancel()

    async def _sent(self, _: Any) -> None:
        self.hear()  # from now on it may be expected to answer

    async def _answered(self, response: Any) -> None:
        self.hear(pause=_LONGEST_PAUSE_S if response.is_error else 0.0)
