"""Silence on a clock that the tests move on: nothing here waits, or depends on how fast it runs."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mmcb.generation.client import Client, SilentServerError
from mmcb.generation.config import EngineConfig

CONFIG = EngineConfig(name="server", server_url=("http://localhost",))


class Skipping(selectors.DefaultSelector):
    """Where the loop would wait for time to pass, its clock is moved on instead."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.skipped += timeout or 0.0
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose seconds cost nothing."""

    def __init__(self) -> None:
        self._skipping = Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.skipped


def seconds_until(outcomes: Callable[[Client], Awaitable[None]]) -> float:
    """What a coroutine over a client took on its own clock."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        before = loop.time()
        runner.run(outcomes(Client(CONFIG, "http://localhost/v1")))
        return loop.time() - before


async def answered(client: Client, *, every: float, pieces: int) -> str:
    for _ in range(pieces):
        await asyncio.sleep(every)
        client.hear()
    return "answer"


def test_a_silent_server_is_given_up_after_the_flag_s_default_of_a_minute() -> None:
    async def both(client: Client) -> None:
        waits = [client.wait_for(asyncio.sleep(3600)) for _ in range(2)]
        found = await asyncio.gather(*waits, return_exceptions=True)
        assert all(isinstance(each, SilentServerError) for each in found)

    assert CONFIG.server_timeout == 60
    assert seconds_until(both) == pytest.approx(60, abs=0.1)


def test_a_request_may_wait_for_hours_while_others_are_answered() -> None:
    async def both(client: Client) -> None:
        queued = client.wait_for(answered(client, every=7200, pieces=1))
        streaming = client.wait_for(answered(client, every=50, pieces=144))
        assert await asyncio.gather(queued, streaming) == ["answer", "answer"]

    assert seconds_until(both) == pytest.approx(7200, abs=0.1)


def test_silence_counts_from_the_last_byte() -> None:
    async def one(client: Client) -> None:
        with pytest.raises(SilentServerError):
            await client.wait_for(
                asyncio.gather(answered(client, every=50, pieces=2), asyncio.sleep(3600))
            )

    assert seconds_until(one) == pytest.approx(160, abs=0.1)


@pytest.mark.parametrize(("is_error", "seconds"), [(True, 180), (False, 60)])
def test_a_server_that_asks_for_patience_gets_it(is_error: bool, seconds: float) -> None:
    class Response:
        pass

    Response.is_error = is_error  # type: ignore[attr-defined]

    async def one(client: Client) -> None:
        await client._answered(Response())
        with pytest.raises(SilentServerError):
            await client.wait_for(asyncio.sleep(3600))

    assert seconds_until(one) == pytest.approx(seconds, abs=0.1)
