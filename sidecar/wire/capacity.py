"""What this process may use, of descriptors and memory, and how many connections that is enough for.

Each connection from a caller may need one to an upstream, so half of the descriptors are for callers, less a reserve
for the store, the authorization server and the admin listener: a flood of callers leaves the others what they need.
Above its limit of memory the process takes no new work, rather than be killed with all that is under way. Reads
Linux's /proc and cgroups; where there are none, nothing is limited by memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import resource
import socket
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

RESERVE = 256  # descriptors, or a quarter of them where there are few
LEAST_RESERVE = 32
LEAST_CONNECTIONS = 8
UNSENT = 128 * 1024  # bytes: as much as one read brings, so that a fast receiver never waits for us
_SO_BUF_LOCK, _RECEIVE_BUFFER = 72, 2  # <asm-generic/socket.h>, <linux/net.h>; Linux 5.14
PROBE_AFTER, PROBE_EVERY, PROBES = 60, 15, 4  # seconds of silence, seconds, times
CGROUP_SHARE = 0.9  # of what the container may use
_STATM = Path("/proc/self/statm")
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_NO_LIMIT = 1 << 50  # bytes: cgroup v1 writes "none" as a very large number


class Use(NamedTuple):
    """Bytes of memory: resident, and of address space."""

    resident: int
    address_space: int


def bound_unsent(sock: socket.socket) -> None:
    """Let the kernel keep no more than `UNSENT` bytes that it cannot send yet; a listening socket hands that on.

    Without it a receiver that does not read costs megabytes of the kernel's memory, whatever this process holds back.
    """
    if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)


def unsent(transport: asyncio.WriteTransport) -> int:
    """Return how many of the bytes that were written the peer's machine has not confirmed: those in the kernel too."""
    count = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None and (descriptor := sock.fileno()) >= 0:  # else it is closed
        with contextlib.suppress(OSError):  # where the kernel does not say, they count as taken
            count += int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return count


def notice_loss(sock: socket.socket) -> None:
    """Let the kernel ask a peer that is silent whether it is still there; a listening socket hands that on.

    A tunnel and a stream of events have no deadline: one whose peer has gone without a word (a machine that was
    switched off, a translator of addresses that has forgotten it) would stay for ever.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", PROBE_AFTER), ("TCP_KEEPINTVL", PROBE_EVERY), ("TCP_KEEPCNT", PROBES)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def hold_window(sock: socket.socket) -> None:
    """Keep the kernel from enlarging a receive buffer until `free_window`; elsewhere than on Linux 5.14 it may.

    It makes one of 1.3 MiB ready for a sender on the same machine after the first few reads, and a caller that does not
    read lets that fill up.
    """
    _lock(sock, _RECEIVE_BUFFER)


def free_window(sock: socket.socket | None) -> None:
    """Let the kernel enlarge a receive buffer again, as distance and speed need. None: its connection has ended."""
    if sock is not None:
        _lock(sock, 0)


def _lock(sock: socket.socket, which: int) -> None:
    with contextlib.suppress(OSError):  # a kernel that does not know it enlarges buffers as ever
        sock.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, which)


def reserve(descriptors: int) -> int:
    """Return how many descriptors are kept for other things than callers and upstreams."""
    return max(LEAST_RESERVE, min(RESERVE, descriptors // 4))


def connections_for(wanted: int, descriptors: int) -> int:
    """Return how many of the `wanted` connections can be served with so many descriptors."""
    return min(wanted, max(LEAST_CONNECTIONS, (descriptors - reserve(descriptors)) // 2))


def upstreams_for(connections: int, descriptors: int) -> int:
    """Return how many connections to upstreams leave room for so many from callers, and for the reserve."""
    return max(connections, descriptors - reserve(descriptors) - connections)


def descriptors() -> int:
    """Return how many descriptors this process may have open (its soft limit)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _NO_LIMIT if soft == resource.RLIM_INFINITY else soft


def raise_descriptors(connections: int) -> int:
    """Raise the soft limit, as far as the hard one lets us, to what `connections` need; return the soft limit."""
    wanted = 2 * connections + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return descriptors()


def use() -> Use | None:
    """Return what this process uses; None where the system does not say."""
    try:
        size, resident = _STATM.read_text("ascii").split()[:2]
    except OSError:
        return None
    page = resource.getpagesize()
    return Use(int(resident) * page, int(size) * page)


def memory_check(configured: int | None) -> Callable[[], bool]:
    """Return what says whether this process uses more memory than it may.

    `configured` in bytes; without it nine tenths of what the container may use. RLIMIT_AS counts as well.
    """
    most = configured or _of_container()
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    space = None if soft == resource.RLIM_INFINITY else soft * CGROUP_SHARE

    def above() -> bool:
        now = use() if most or space else None
        if now is None:
            return False
        return bool((most and now.resident > most) or (space and now.address_space > space))

    return above


def _of_container() -> int | None:
    for file in _CGROUPS:
        try:
            text = file.read_text("ascii").strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < _NO_LIMIT:
            return int(int(text) * CGROUP_SHARE)
    return None
