"""Counts the records that are alive at once, to show that memory does not grow with a file."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest


class LiveRecords:
    """How many of the objects that some functions returned are alive, and the most there were."""

    def __init__(self) -> None:
        self.alive = self.most = self.total = 0

    def watch(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Count what the function of this dotted name returns, as its module calls it."""
        module, _, attribute = name.rpartition(".")
        function: Callable[..., Any] = getattr(__import__(module, fromlist=[""]), attribute)

        def watched(*args: Any, **kwargs: Any) -> Any:
            made = function(*args, **kwargs)
            if made is not None:
                self.total += 1
                self.alive += 1
                self.most = max(self.most, self.alive)
                weakref.finalize(made, self._gone)
            return made

        monkeypatch.setattr(name, watched)

    def _gone(self) -> None:
        self.alive -= 1
