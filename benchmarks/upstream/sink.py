"""An API for bodies of any length: `PUT /sink` counts what it gets, `GET /bytes/N` sends N bytes. Not measured.

`?pause=S` makes either stop for S seconds after the first MiB, so that whoever buffers instead of waiting shows it.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from benchmarks.places import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = bytes(1 << 18)
PAUSE_AFTER = 1 << 20


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self._known():
            left = int(urlsplit(self.path).path.rpartition("/")[2])
            self._head(200, left)
            for done in range(0, left, len(BLOCK)):
                self._pause_between(done, done + len(BLOCK))
                self.wfile.write(BLOCK[: left - done])

    def do_PUT(self) -> None:
        if self._known():
            received = 0
            for length in self._blocks():
                self._pause_between(received, received + length)
                received += length
            body = json.dumps({"received": received}).encode()
            self._head(200, len(body))
            self.wfile.write(body)

    def _known(self) -> bool:
        known = (self.headers.get("Authorization") or "").startswith("Bearer bench-")
        if not known:
            self.close_connection = True
            self._head(401, 0)
        return known

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _blocks(self) -> Iterator[int]:
        """Lengths of the pieces of the request's body, framed by length or chunked."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            yield from self._chunks()
            return
        done, length = 0, int(self.headers.get("Content-Length") or 0)
        while done < length and (some := self.rfile.read(min(len(BLOCK), length - done))):
            done += len(some)
            yield len(some)

    def _chunks(self) -> Iterator[int]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield len(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            """Trailer fields are read and dropped."""

    def _pause_between(self, before: int, after: int) -> None:
        if before < PAUSE_AFTER <= after:
            time.sleep(min(10.0, float(parse_qs(urlsplit(self.path).query).get("pause", ["0"])[0])))

    def log_message(self, *_: object) -> None:
        """Say nothing: the harness prints its own lines."""


@contextmanager
def sink() -> Iterator[int]:
    """The port of a running sink."""
    server = ThreadingHTTPServer((LOOPBACK, 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
