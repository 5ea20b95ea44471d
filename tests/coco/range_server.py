"""An HTTP server for tests: it serves byte ranges, cuts connections, and remembers who asked."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """What the server has, and how it behaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    """By path, such as /zips/val2017.zip."""
    ranges: bool = True
    """Whether it knows the Range header."""
    cuts: list[int] = field(default_factory=list)
    """After how many bytes to drop the connection, one for each request to come."""
    statuses: list[int] = field(default_factory=list)
    """Errors to answer first."""
    asked: list[str] = field(default_factory=list)
    """The Range header of each request."""
    url: str = ""

    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.headers.get("Range", ""))
        content = self.files.get(handler.path)
        if self.statuses or content is None:
            handler.send_error(self.statuses.pop(0) if self.statuses else 404)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.asked[-1])
        start = int(wanted[1]) if wanted and self.ranges else 0
        if start >= len(content):
            handler.send_error(416)
            return
        if wanted and self.ranges:
            handler.send_response(206)
            total = len(content)
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        body = content[start:]
        if self.cuts:
            body = body[: self.cuts.pop(0)]
            handler.close_connection = True
        handler.wfile.write(body)


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.reply(self)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
