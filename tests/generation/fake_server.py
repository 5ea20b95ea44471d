"""An OpenAI-compatible server on loopback that misbehaves as told, as real ones do on bad days."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mmcb.generation.config import EngineConfig

GOOD = "good"
"""A proper answer."""
CUT = "cut"
"""Half an answer, then the connection is closed."""
SILENT = "silent"
"""Nothing, until the client has given up."""
GARBAGE = "garbage"
"""A proxy's page instead of an answer."""
EMPTY = "empty"
"""A stream without an answer in it."""
HALF = "half"
"""Half an answer, then the stream ends as if it were whole."""
FAULT = "fault"
"""Half an answer, then the server's own complaint."""


class FakeServer:
    """Answers chats with `re: <the last user's text>`, unless the script says otherwise."""

    def __init__(self, *, owner: str = "nobody") -> None:
        self.owner = owner
        self.models: list[str] | None = ["fake-model"]
        """None: the route does not exist."""
        self.script: deque[str | int] = deque()
        """What to do with the next chats: one of the words above, or an HTTP status."""
        self.always: str | int = GOOD
        """What to do when the script is over."""
        self.chats: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def config(self, **settings: Any) -> EngineConfig:
        defaults: dict[str, Any] = {"server_url": (self.url,), "concurrency": 1}
        defaults |= {"server_retries": 2, "server_timeout": 5.0}
        return EngineConfig(name="server", **{**defaults, **settings})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                server.keys.append(self.headers["Authorization"])
                if server.models is None:
                    self.reply(404, {"error": {"message": "no such route"}})
                    return
                rows = [{"id": name, "object": "model", "created": 0, "owned_by": server.owner}
                        for name in server.models]  # fmt: skip
                self.reply(200, {"object": "list", "data": rows})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/tokenize":
                    self.reply(200, {"tokens": [1] if "prompt" in body else [5, 6]})
                    return
                with server._lock:
                    server.chats.append(body)
                    what = server.script.popleft() if server.script else server.always
                    server._now += 1
                    server.most_at_once = max(server.most_at_once, server._now)
                self.act(what, body)
                with server._lock:
                    server._now -= 1

            def act(self, what: str | int, body: dict[str, Any]) -> None:
                if isinstance(what, int):
                    self.reply(what, {"error": {"message": f"status {what}"}})
                elif what == SILENT:
                    server._given_up.wait(30)
                elif what == GARBAGE:
                    self.send("text/html", b"<html>busy</html>")
                elif what == EMPTY:
                    self.send("text/event-stream", events([]))
                elif what == CUT:
                    self.send_response(200)
                    self.send_header("Content-Type", "text/event-stream")
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(events(answer(body)[:2], end=b""))
                    self.close_connection = True
                elif what == HALF:
                    self.send("text/event-stream", events(answer(body)[:2]))
                elif what == FAULT:
                    fault = {"error": {"message": "the engine died", "code": 500}}
                    self.send("text/event-stream", events([*answer(body)[:2], fault]))
                else:
                    time.sleep(0.01)  # long enough that others can be under way
                    self.send("text/event-stream", events(answer(body)))

            def reply(self, status: int, body: dict[str, Any]) -> None:
                self.send("application/json", json.dumps(body).encode(), status)

            def send(self, kind: str, data: bytes, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                # So short a wait before the client tries again that the tests stay quick.
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)

        return Handler

    @contextmanager
    def running(self) -> Iterator[FakeServer]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._given_up.set()
            self._http.shutdown()
            self._http.server_close()


def answer(body: dict[str, Any]) -> list[dict[str, Any]]:
    """A chat completion that repeats what the user said, or a completion of a plain prompt.

    In pieces, as it is streamed: words, why it ended, what it cost.
    """
    assert body["stream"]
    assert body["stream_options"] == {"include_usage": True}
    plain = "prompt" in body
    said = body["prompt"] if plain else _said(body["messages"])
    name = "text_completion" if plain else "chat.completion.chunk"
    frame = {"id": "x", "object": name, "created": 0, "model": body["model"]}

    def piece(text: str, reason: str | None = None) -> dict[str, Any]:
        content = {"text": text} if plain else {"delta": {"content": text}}
        return {**frame, "choices": [{"index": 0, **content, "finish_reason": reason}]}

    usage = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
    return [
        piece(" re:"),
        piece(f" {said}"),
        piece("", "stop"),
        {**frame, "choices": [], "usage": usage},
    ]


def _said(messages: list[dict[str, Any]]) -> str:
    content = [message["content"] for message in messages if message["role"] == "user"][-1]
    return str(content if isinstance(content, str) else content[-1]["text"])


def events(pieces: list[dict[str, Any]], *, end: bytes = b"data: [DONE]\n\n") -> bytes:
    """Server-sent events."""
    return b"".join(f"data: {json.dumps(piece)}\n\n".encode() for piece in pieces) + end
