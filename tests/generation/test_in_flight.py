"""The loop that keeps requests under way ends with everything in it."""

import asyncio
import threading

from mmcb.generation.in_flight import BackgroundLoop


def test_closing_cancels_what_is_under_way_and_ends_the_thread() -> None:
    before = set(threading.enumerate())
    loop = BackgroundLoop()
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("cancelled")

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)  # let it start
        return task

    task = loop.run(begin())
    assert set(threading.enumerate()) > before
    loop.close()
    assert ended == ["cancelled"]
    assert task.cancelled()
    assert set(threading.enumerate()) == before
