"""One question to the admin listener of a running sidecar, over TCP or a unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sidecar.cli.common import CONFIGURATION, Answer, UnreachableError, fail

if TYPE_CHECKING:
    from sidecar.cli.common import Admin

ODD = "--admin takes http://HOST:PORT or unix:PATH"


def ask(admin: Admin, method: str, path: str, body: Any, timeout: float) -> Answer:
    """Send a request; raise `UnreachableError` where nobody answers, end the command where the address is odd."""
    connection = _connection(admin.url, timeout)
    headers = {"Host": "localhost"} | ({"Content-Type": "application/json"} if body is not None else {})
    if admin.token is not None:
        headers["Authorization"] = f"Bearer {admin.token.reveal()}"
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return Answer(response.status, _decoded(response.read()))
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"no sidecar answers at {admin.url} ({_why(error)})") from None
    finally:
        connection.close()


def _why(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or type(error).__name__


def _connection(url: str, timeout: float) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(url.removeprefix("unix:").removeprefix("//"), timeout)
    host, port = _split(url)
    return http.client.HTTPConnection(host, port, timeout=timeout)


def _split(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        fail(ODD, CONFIGURATION)
    if parts.scheme != "http" or not (host and host.isascii()) or parts.path not in ("", "/"):
        fail(ODD, CONFIGURATION)
    return host, port


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
