"""A token endpoint for the client-credentials flow (RFC 6749 section 4.4.3), in a thread, not measured."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from benchmarks.places import LOOPBACK
from benchmarks.scene import SCOPE

if TYPE_CHECKING:
    from collections.abc import Iterator


def _handler(app_token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
            granted = form.get("grant_type") == ["client_credentials"]
            token = {"access_token": app_token, "token_type": "Bearer", "expires_in": 86400, "scope": SCOPE}
            body = json.dumps(token if granted else {"error": "unsupported_grant_type"}).encode()
            self.send_response(200 if granted else 400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: the harness prints its own lines."""

    return Handler


@contextmanager
def token_endpoint(app_token: str) -> Iterator[str]:
    """The URL of a token endpoint that answers every client-credentials request with `app_token`."""
    server = ThreadingHTTPServer((LOOPBACK, 0), _handler(app_token))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/token"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
