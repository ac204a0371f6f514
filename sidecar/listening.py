"""Sockets that are listened on: bound, named where they cannot be, shared out among workers.

The window to `bind` and `listen`. Decides who may connect to a unix socket; knows nothing of what comes in.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sidecar.settings import Address
from sidecar.wire.capacity import bound_unsent, notice_loss

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sidecar.settings import Settings

BACKLOG = 4096  # connections that wait to be accepted; the system has a bound of its own
OWN, GROUP = 0o600, 0o660
_PROBES = 24
_KEEP_NAME: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class Door(NamedTuple):
    """One address, and the sockets that listen there: one for all workers, or one for each, by its number."""

    address: Address  # with the port that is in use; a name has become its address, by which our own door is known
    sockets: tuple[socket.socket, ...]

    def of(self, worker: int) -> socket.socket:
        """Return the socket that a worker accepts from."""
        return self.sockets[worker % len(self.sockets)]

    def close(self) -> None:
        """Close our copies of the sockets; those of other processes stay open."""
        for sock in self.sockets:
            sock.close()


class Doors(NamedTuple):
    """Every place where the program listens."""

    listeners: tuple[Door, ...]
    admin: Door
    login: Door | None

    @property
    def all(self) -> tuple[Door, ...]:
        """The listeners, the sign-in listener, and last the admin listener."""
        return (*self.listeners, *([self.login] if self.login else []), self.admin)

    def close(self) -> None:
        """Close our copies of the sockets."""
        for door in self.all:
            door.close()

    def remove(self) -> None:
        """Take the names of unix sockets away, so that nobody can connect any more."""
        for door in self.all:
            remove(door.address)


def opened(settings: Settings, workers: int = 1) -> Doors:
    """Listen everywhere; raise an OSError that names the address where that cannot be, and leave nothing open.

    Each of several workers gets a socket of its own at a TCP listener, where the system shares connections out among
    such (SO_REUSEPORT). The other doors have one socket, from which whoever is first accepts.
    """
    apart = workers if workers > 1 and shares_out() else 1
    made: list[Door] = []
    try:
        made += [door(listener.bind, GROUP, apart) for listener in settings.listeners]
        made += [door(settings.login.bind, OWN)] if settings.login else []
        made.append(door(settings.admin.bind, OWN))
    except OSError:
        for one in made:
            one.close()
            remove(one.address)
        raise
    number = len(settings.listeners)
    return Doors(tuple(made[:number]), made[-1], made[number] if settings.login else None)


def door(address: Address, mode: int, number: int = 1) -> Door:
    """Listen at `address` with so many sockets (a unix socket, whose file gets `mode`: one)."""
    with naming(address):
        if address.path:
            return Door(address, (_unix(Path(address.path), mode),))
        first = _tcp(address)
        bound = Address(*first.getsockname()[:2])
        if number == 1:
            first.listen(BACKLOG)
            return Door(bound, (first,))
        return Door(bound, _beside(first, bound, number))


def remove(address: Address) -> None:
    """Take the name of a unix socket away."""
    if address.path:
        Path(address.path).unlink(missing_ok=True)


async def accept(
    loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.BaseProtocol], sock: socket.socket
) -> asyncio.AbstractServer:
    """Accept connections from a socket. Its name, if it has one, stays: others may listen there too."""
    if sock.family.name == "AF_UNIX":
        return await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG, **_KEEP_NAME)
    return await loop.create_server(factory, sock=sock, backlog=BACKLOG)


@contextlib.asynccontextmanager
async def accepting(
    factory: Callable[[], asyncio.BaseProtocol], where: Address | socket.socket
) -> AsyncIterator[Address]:
    """Accept connections at an address, or on a socket, and yield the address in use (port 0 becomes a port).

    Raises OSError where the address is taken or not ours. A unix socket made here is its owner's only, and is removed.
    """
    sock = where if isinstance(where, socket.socket) else door(where, OWN).of(0)
    server = await accept(asyncio.get_running_loop(), factory, sock)
    name = sock.getsockname()
    try:
        yield Address(path=name) if isinstance(name, str) else Address(*name[:2])
    finally:
        server.close()
        if isinstance(where, Address):
            remove(where)


@contextlib.contextmanager
def naming(address: Address) -> Iterator[None]:
    """Say which address cannot be listened on."""
    try:
        yield
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise OSError(error.errno, f"cannot listen on {address}: {reason}") from None


def shares_out() -> bool:
    """Say whether the system shares connections out evenly among sockets of one port: tried, not guessed.

    Some systems give all connections to the socket that came last.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        return False
    here = Address("127.0.0.1", 0)
    with contextlib.ExitStack() as stack:
        try:
            first = stack.enter_context(_tcp(here))
            pair = _beside(first, Address(here.host, first.getsockname()[1]), 2)
            stack.enter_context(pair[1])
            for _ in range(_PROBES):
                stack.enter_context(socket.create_connection(first.getsockname(), 1.0))
            return all(_accepts(sock) for sock in pair)
        except OSError:
            return False


def _accepts(sock: socket.socket) -> bool:
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.accept()[0].close()
        return True
    return False


def _tcp(address: Address, *, shared: bool = False) -> socket.socket:
    """Return a socket at an address; it does not listen yet. `shared`: others that say so may have it too."""
    sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound_unsent(sock)
        notice_loss(sock)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.host, address.port))
    except OSError:
        sock.close()
        raise
    return sock


def _beside(first: socket.socket, address: Address, number: int) -> tuple[socket.socket, ...]:
    """Return `first` and others at the same address, all of them listening.

    `first` says only now that it shares: at its own `bind` another program at the port was found out.
    """
    made = [first]
    try:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made += [_tcp(address, shared=True) for _ in range(number - 1)]
        for sock in made:
            sock.listen(BACKLOG)
    except OSError:
        for sock in made:
            sock.close()
        raise
    return tuple(made)


def _answers(path: Path) -> bool:
    """Say whether somebody listens at a unix socket; what a process left behind that has ended is free."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        return sock.connect_ex(str(path)) in (0, errno.EAGAIN)  # EAGAIN: more wait there than may


def _unix(path: Path, mode: int) -> socket.socket:
    if path.is_socket():
        if _answers(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(mode)  # nobody can connect before listen()
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
