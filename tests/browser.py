"""A page in headless Chromium: looked at through the DevTools protocol, over a pipe.

The protocol can ask what the page itself, which allows no script, cannot say: how wide it came out,
which requests it made, how it looks on a phone in the dark.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 120
"""Seconds that an answer may take; only a broken browser needs them."""


def find_chromium() -> str:
    """The browser; the test is skipped where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium here")
    return found


class Browser:
    """One tab.

    Attributes:
        requests: URLs that the shown page asked for, in order.
    """

    def __init__(self, reader: int, writer: int) -> None:
        self.requests: list[str] = []
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count(1)
        self._left = b""
        self._session: str | None = None
        self._loaded = False
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.ask(f"{domain}.enable")

    def show(self, page: Path, *, width: int = 1200, dark: bool = False) -> None:
        """Open a page from disk, `width` CSS pixels wide, in light or in dark."""
        self.requests.clear()
        self._loaded = False
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 700,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not self._loaded:
            self._take()

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save what is seen as a PNG; `whole` also what is below the fold."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def ask(self, method: str, **params: Any) -> Any:
        """Send a command and wait for its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._take()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _take(self) -> dict[str, Any]:
        limit = time.monotonic() + PATIENCE
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._reader], [], [], max(0, limit - time.monotonic()))
            assert ready, "chromium does not answer"
            self._left += os.read(self._reader, 1 << 20)
        line, _, self._left = self._left.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        self._loaded = self._loaded or message.get("method") == "Page.loadEventFired"
        return message


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `profile`; it ends with the block."""
    chromium = find_chromium()
    to_read, to_write = os.pipe(), os.pipe()
    flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --remote-debugging-pipe"
    # Chromium reads commands from descriptor 3 and answers on 4.
    shell = f'exec "$0" "$@" 3<&{to_read[0]} 4>&{to_write[1]}'
    process = subprocess.Popen(
        ["bash", "-c", shell, chromium, *flags.split(), f"--user-data-dir={profile}"],
        pass_fds=(to_read[0], to_write[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read[0])
    os.close(to_write[1])
    try:
        yield Browser(to_write[0], to_read[1])
    finally:
        process.kill()
        process.wait()
        os.close(to_read[1])
        os.close(to_write[0])
