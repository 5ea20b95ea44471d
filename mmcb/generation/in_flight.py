"""Many requests under way at once: an event loop in a thread of its own, answers as they come.

A thread, because a notebook has a loop already, and because records are written between answers.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

from mmcb.generation.protocol import Completion, Request

T = TypeVar("T")

_CLOSE_S = 10.0


class BackgroundLoop:
    """An event loop in a daemon thread; it ends with the process, or by `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """End the loop and its thread, after what is under way in it has been cancelled."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        # The collector may come by in the thread itself, which cannot wait for its own end.
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_S)

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(_cancel_the_rest())
        self._loop.close()

    def answers(
        self,
        answer: Callable[[Request], Awaitable[Completion]],
        requests: Sequence[Request],
        *,
        limit: int,
    ) -> Iterator[list[Completion]]:
        """Answer every request, at most `limit` at once, a list of whatever is finished.

        When `answer` raises, no further request is begun, those in flight are waited for and
        given out, and then the first error is raised. Leaving the iteration cancels what is in
        flight.
        """
        finished: SimpleQueue[Completion | None] = SimpleQueue()
        work = _answer_all(answer, requests, finished.put, limit=limit)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            last = not requests
            while not last:
                batch = [finished.get()]
                while not finished.empty():
                    batch.append(finished.get())
                last = batch[-1] is None
                if done := [completion for completion in batch if completion is not None]:
                    yield done
            future.result()
        finally:
            future.cancel()


async def _cancel_the_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


async def _answer_all(
    answer: Callable[[Request], Awaitable[Completion]],
    requests: Sequence[Request],
    put: Callable[[Completion | None], None],
    *,
    limit: int,
) -> None:
    """Put every completion, then None."""
    rest = iter(requests)
    errors: list[Exception] = []

    async def work_off() -> None:
        for request in rest:
            if errors:
                return
            try:
                put(await answer(request))
            except Exception as error:
                errors.append(error)

    try:
        await asyncio.gather(*(work_off() for _ in range(min(limit, len(requests)))))
    finally:
        put(None)
    if errors:
        raise errors[0]
