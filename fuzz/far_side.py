"""What stands behind the sidecar in the test over sockets: a tap, then nginx, or HAProxy before a recording backend.

The tap keeps the bytes that the sidecar wrote; nginx tells by its access log, and HAProxy by what it passes on, which
requests they took them for. Each connection is known by the port that the tap dialled from.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Self, cast

import h11

from fuzz.reading import h11_requests
from tests.support.recording_upstream import Reader, echo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
_REFUSED = range(400, 506)
_NGINX = """daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err crit;
events {{ worker_connections 4096; }}
http {{
  log_format seen escape=none '$remote_port $status $request_method $request_uri';
  access_log {folder}/nginx.log seen;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  keepalive_requests 1000000; merge_slashes off; large_client_header_buffers 4 64k; client_max_body_size 0;
  server {{ listen 127.0.0.1:{port}; default_type text/plain; location / {{ return 200 "$request_method $request_uri"; }} }}
}}
"""
_HAPROXY = """global
  maxconn 4000
defaults
  mode http
  timeout connect 2s
  timeout client 10s
  timeout server 10s
frontend f
  bind 127.0.0.1:{port}
  http-request set-header X-Tap-Port %[src_port]
  default_backend b
backend b
  http-reuse never
  server s 127.0.0.1:{backend}
"""


class Request(NamedTuple):
    """A request as somebody saw it; `body` None where he does not say."""

    method: bytes
    target: bytes
    body: bytes | None
    status: int = 200


class Tap:
    """Passes bytes between the sidecar and a server, and keeps those of the sidecar."""

    def __init__(self, server: int) -> None:
        self.server = server
        self.port = 0
        self.streams: dict[int, bytearray] = {}
        self.open: set[_Half] = set()
        self._listener: asyncio.Server

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Half(self), "127.0.0.1", 0, backlog=1024)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._listener.close()
        self.hang_up()
        await asyncio.sleep(0.02)

    def hang_up(self) -> None:
        """Close every connection, and forget what was seen."""
        for half in list(self.open):
            half.transport.abort()
        self.streams = {}


class _Half(asyncio.Protocol):
    """One side of one connection; `other` is the other side."""

    def __init__(self, tap: Tap, other: _Half | None = None) -> None:
        self._tap = tap
        self.other = other
        self._accepted = other is None
        self._early: list[bytes] = []
        self._stream: bytearray | None = None
        self._dialling: asyncio.Task[object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._tap.open.add(self)
        if self._accepted:
            self._dialling = asyncio.get_running_loop().create_task(self._dial())
        else:
            first = cast("_Half", self.other)
            first.other = self
            first._stream = self._tap.streams[transport.get_extra_info("sockname")[1]] = bytearray()
            for data in first._early:
                first.pass_on(data)

    async def _dial(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: _Half(self._tap, self), "127.0.0.1", self._tap.server
            )
        except OSError:
            self.transport.abort()

    def pass_on(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream += data
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._accepted and self.other is None:
            self._early.append(data)
        else:
            self.pass_on(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._tap.open.discard(self)
        if self.other is not None:
            self.other.transport.close()
        elif self._dialling is not None:
            self._dialling.cancel()


class Backend:
    """The server behind HAProxy: answers with method and target, and remembers what it got by the tap's port."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: defaultdict[int, list[Request]] = defaultdict(list)
        self.broken: list[str] = []
        self.open: set[_Recorder] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Recorder(self), "127.0.0.1", 0, backlog=1024)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._listener.close()
        for recorder in list(self.open):
            recorder.transport.abort()
        await asyncio.sleep(0.02)


class _Recorder(asyncio.Protocol):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._reader = Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._backend.open.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._backend.open.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            for seen in self._reader.feed(data):
                port = int(seen.all(b"x-tap-port")[0])
                self._backend.seen[port].append(Request(seen.method, seen.target, seen.body))
                for step in echo(seen):
                    self.transport.write(cast("bytes", step))
        except h11.RemoteProtocolError as error:
            self._backend.broken.append(str(error))
            self.transport.abort()


class Server:
    """nginx or HAProxy as a process. Use as a context manager."""

    def __init__(self, command: list[str], port: int) -> None:
        self._command = command
        self.port = port

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            if time.monotonic() > end or self._process.poll() is not None:
                self.__exit__()
                raise RuntimeError(f"{self._command[0]} does not start")
            time.sleep(0.05)

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        self._process.wait(10)


def nginx(folder: Path) -> Server:
    """Return an nginx that answers with method and URI, and logs each request that it takes."""
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(_NGINX.format(folder=folder, port=port), "utf-8")
    return Server([str(NGINX), "-p", str(folder), "-e", str(folder / "nginx.err"), "-c", str(file)], port)


def haproxy(folder: Path, backend: int) -> Server:
    """Return a HAProxy before the backend."""
    port = free_port()
    file = folder / "haproxy.cfg"
    file.write_text(_HAPROXY.format(port=port, backend=backend), "utf-8")
    return Server([str(HAPROXY), "-db", "-f", str(file)], port)


def free_port() -> int:
    """Return a port of loopback that nobody uses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class NginxLog:
    """The access log, read on from where it was read last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def read(self) -> dict[int, list[Request]]:
        with self._path.open("rb") as file:
            file.seek(self._at)
            text = file.read()
        whole = text.rpartition(b"\n")[0]
        self._at += len(whole) + 1 if whole else 0
        seen: defaultdict[int, list[Request]] = defaultdict(list)
        for line in whole.split(b"\n") if whole else ():
            port, status, method, target = (line.split(b" ", 3) + [b""] * 3)[:4]
            seen[int(port)].append(Request(method, target, None, int(status)))
        return seen


def differences(name: str, streams: dict[int, bytearray], seen: dict[int, list[Request]]) -> Iterator[str]:
    """Compare what h11 reads in each connection's bytes with what a server saw there: one list, no two readings.

    A server may refuse a request (a method, a URI), which ends its list; it may not see another one, or one more.
    """
    for port, stream in streams.items():
        heard = h11_requests(bytes(stream))
        if heard.broken:
            yield f"{name}: h11 refuses what was forwarded: {heard.broken}: {bytes(stream)!r}"
            continue
        theirs = seen.get(port, [])
        for ours, their in zip(heard.requests, theirs, strict=False):
            if their.status not in _REFUSED and (ours.method, ours.target) != (their.method, their.target):
                yield f"{name} saw {their}, h11 {ours}"
            if their.body is not None and their.body != ours.body:
                yield f"{name} saw another body: {their}, h11 {ours}"
        more = theirs[len(heard.requests) :]  # nginx answers and logs one of which it has the head only
        begun = heard.begun
        if len(more) > 1 or (more and more[0].status not in (400, 408, 499) and (
            begun is None or (begun.method, begun.target) != (more[0].method, more[0].target)
        )):  # fmt: skip
            yield f"{name} saw requests that nobody sent: {more} in {bytes(stream[-1000:])!r}"
        missing = len(heard.requests) - len(theirs)  # HAProxy does not pass on what it refuses, and closes
        if missing > 1 or (missing == 1 and theirs and theirs[-1].body is None and theirs[-1].status not in _REFUSED):
            yield f"{name} saw {len(theirs)} requests of {len(heard.requests)}: {bytes(stream[-1000:])!r}"
