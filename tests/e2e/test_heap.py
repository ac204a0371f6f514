"""What large bodies cost in memory that is taken and given back."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.process import Backdrop, Process
from tests.support.program import text

if TYPE_CHECKING:
    import pytest

MIB = 1024 * 1024
SIZE = 64 * MIB
MOST_FAULTS = 5  # a MiB: one where the heap is kept, a dozen and more where it is cut and grown


def page_faults(process: Process) -> int:
    """Return how often the process has touched a page that it did not have (proc(5), minflt)."""
    return int(Path(f"/proc/{process.process.pid}/stat").read_text("ascii").rpartition(")")[2].split()[7])


def download(process: Process) -> int:
    """Get a large body; return its size with the head's."""
    host, _, port = process.proxy.rpartition(":")
    size = 0
    with socket.create_connection((host, int(port)), 10) as sock:
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: stats.internal\r\nConnection: close\r\n\r\n")
        while got := len(sock.recv(256 * 1024)):
            size += got
    return size


def test_large_bodies_do_not_take_new_pages_for_each_piece(
    backdrop: Backdrop, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The heap is kept from one piece to the next: giving it back costs more than passing the body on."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE + bytes(SIZE)
    backdrop.do(lambda: setattr(backdrop.upstream, "default", lambda _seen: [answer]))
    with Process(tmp_path_factory.mktemp("heap"), text(backdrop.server, backdrop.upstream)) as sidecar:
        assert download(sidecar) > SIZE
        before = page_faults(sidecar)
        assert download(sidecar) > SIZE
        assert (page_faults(sidecar) - before) * MIB / SIZE <= MOST_FAULTS
