"""Opening connections: names to addresses, addresses that may be dialled, TLS.

The address that was checked is the address that is dialled: names are resolved here once, each address is judged, and
only judged addresses are connected to (Happy Eyeballs, RFC 8305, by aiohappyeyeballs). The one `except` of this
module turns the network's errors into refusals; no host name, address or exception text reaches a caller.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from typing import TYPE_CHECKING, TypeVar

import aiohappyeyeballs

from sidecar.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.model import Origin
    from sidecar.settings import Tls

P = TypeVar("P", bound=asyncio.BaseProtocol)
_AddrInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple]  # type: ignore[type-arg]

# Where clouds keep instance credentials: reachable by every program on the machine, so never by way of this one.
METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16",
                 "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254")
)  # fmt: skip
STAGGER = 0.25  # seconds between two attempts (RFC 8305 section 8)


class Dialler:
    """Dials upstreams. `deny_private` as in `destinations`; `own` are addresses that lead back to this program.

    TLS contexts are made once per dialler, so a new configuration reads its certificates anew.
    """

    __slots__ = ("_contexts", "_deny_private", "_own")

    def __init__(self, *, deny_private: bool, own: Iterable[tuple[str, int]]) -> None:
        self._deny_private = deny_private
        self._own = frozenset(own)
        self._contexts: dict[Tls | None, ssl.SSLContext] = {}

    async def dial(
        self,
        factory: Callable[[], P],
        origin: Origin,
        *,
        tls: Tls | None,
        timeout: float,  # noqa: ASYNC109 - of connecting, TLS included
        named: bool,
    ) -> P:
        """Connect to `origin` within `timeout` seconds and return the protocol; raise `Refusal`.

        `named`: the configuration itself names this origin, so an address literal in it is meant.
        """
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._addresses(origin, named and _is_literal(origin.host))
                sock = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=STAGGER)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return await self._protocol(factory, sock, origin, tls)
        except TimeoutError:
            raise Refusal("upstream_timeout", "Connecting to the upstream took too long.") from None
        except ssl.SSLError:
            raise Refusal("upstream_unreachable", "The upstream's TLS certificate or handshake failed.") from None
        except OSError:
            raise Refusal("upstream_unreachable", "The upstream could not be reached.") from None

    async def _protocol(self, factory: Callable[[], P], sock: socket.socket, origin: Origin, tls: Tls | None) -> P:
        loop = asyncio.get_running_loop()
        if origin.scheme != "https":
            _, protocol = await loop.create_connection(factory, sock=sock)
            return protocol
        name = (tls.server_name if tls else None) or origin.host
        _, protocol = await loop.create_connection(factory, sock=sock, ssl=self._context(tls), server_hostname=name)
        return protocol

    async def _addresses(self, origin: Origin, meant: bool) -> list[_AddrInfo]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise Refusal("upstream_unreachable", "The upstream's name is not a host name.") from None
        allowed = [info for info in found if self._allowed(str(info[4][0]), origin.port, meant)]
        if not allowed:
            raise Refusal("destination_refused", "The destination's address is not one that may be dialled.")
        return allowed  # type: ignore[return-value]

    def _allowed(self, text: str, port: int, meant: bool) -> bool:
        address = ipaddress.ip_address(text.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        if mapped in METADATA:
            return False
        if (str(mapped), port) in self._own or (mapped.is_unspecified and any(port == own for _, own in self._own)):
            raise Refusal("loop", "The destination is this sidecar itself.")
        return meant or not self._deny_private or bool(mapped.is_global)

    def _context(self, tls: Tls | None) -> ssl.SSLContext:
        if tls not in self._contexts:
            self._contexts[tls] = client_context(tls)
        return self._contexts[tls]


def _is_literal(host: str) -> bool:
    """Say whether a host is an address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def client_context(tls: Tls | None) -> ssl.SSLContext:
    """Return the client's TLS context: verification always on, TLS 1.2 or later, HTTP/1.1 only."""
    made = ssl.create_default_context(cafile=tls.ca if tls else None)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    if tls and tls.cert:
        made.load_cert_chain(tls.cert, tls.key)
    return made
