"""Opening connections: names to addresses, addresses that may be dialled, TLS.

The address that was checked is the address that is dialled: a name is resolved here once (`names`), each address is
judged (`destinations`) at every dial, and only judged addresses are connected to (`race`). The one `except` of this
module turns the network's errors into refusals; no host name, address or exception text reaches a caller.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar.errors import Refusal
from sidecar.wire import destinations, race
from sidecar.wire.capacity import bound_unsent, hold_window, notice_loss
from sidecar.wire.names import Found, Names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.model import Origin
    from sidecar.settings import Tls

P = TypeVar("P")
_UNVERIFIED = {
    9: "it is not valid yet",
    10: "it has expired",
    62: "it is for another name",
    64: "it is for another address",
}  # OpenSSL's X509_V_ERR_*
RETRY_AFTER = 1.0  # seconds, where this process has no descriptor left


class Resolvers:
    """The names of one process: those of the configuration do not wait for those that callers thought of."""

    __slots__ = ("foreign", "named")

    def __init__(self) -> None:
        self.named = Names()
        self.foreign = Names()


class Dialler:
    """Dials upstreams. `deny_private` as in `destinations`; `own` are addresses that lead back to this program.

    TLS contexts are made once per dialler, so a new configuration reads its certificates anew; `resolvers` outlive it.
    """

    __slots__ = ("_contexts", "_deny_private", "_own", "_resolvers")

    def __init__(
        self, *, deny_private: bool, own: Iterable[tuple[str, int]], resolvers: Resolvers | None = None
    ) -> None:
        self._deny_private = deny_private
        self._own = frozenset(own)
        self._resolvers = resolvers or Resolvers()
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
                sock = await race.connect(await self._addresses(origin, named), origin.port)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                bound_unsent(sock)
                notice_loss(sock)
                hold_window(sock)
                made: P = await self._protocol(factory, sock, origin, tls)
                return made
        except TimeoutError:
            raise Refusal("upstream_timeout", "Connecting to the upstream took too long.") from None
        except ssl.SSLCertVerificationError as error:
            why = _UNVERIFIED.get(error.verify_code, "its authority is not one that is trusted here")
            raise Refusal("upstream_unreachable", f"The upstream's TLS certificate does not verify: {why}.") from None
        except ssl.SSLError:
            raise Refusal("upstream_unreachable", "The TLS handshake with the upstream failed.") from None
        except socket.gaierror:
            raise Refusal("upstream_unreachable", "The upstream's name could not be resolved.") from None
        except OSError as error:
            if error.errno in race.EXHAUSTED:
                detail = "The sidecar can open no further connection."
                raise Refusal("overloaded", detail, retry_after=RETRY_AFTER) from None
            raise Refusal("upstream_unreachable", "The upstream could not be reached.") from None

    async def _protocol(self, factory: Callable[[], Any], sock: socket.socket, origin: Origin, tls: Tls | None) -> Any:
        loop = asyncio.get_running_loop()
        if origin.scheme != "https":
            making = asyncio.ensure_future(loop.create_connection(factory, sock=sock))
            try:
                return (await asyncio.shield(making))[1]
            except asyncio.CancelledError:  # uvloop would not tell the protocol that its connection has ended
                making.add_done_callback(_abort)
                raise
        name = (tls.server_name if tls else None) or origin.host
        _, protocol = await loop.create_connection(factory, sock=sock, ssl=self._context(tls), server_hostname=name)
        return protocol

    async def _addresses(self, origin: Origin, named: bool) -> list[Found]:
        literal = _literal(origin.host)
        if literal is not None:
            found: tuple[Found, ...] = (literal,)
        else:
            found = await (self._resolvers.named if named else self._resolvers.foreign).resolve(origin.host)
        meant = named and literal is not None
        allowed = [one for one in found if self._allowed(ipaddress.ip_address(one.address), origin.port, meant)]
        if not allowed:
            raise Refusal("destination_refused", "The destination's address is not one that may be dialled.")
        return allowed

    def _allowed(self, address: destinations.Address, port: int, meant: bool) -> bool:
        if destinations.is_metadata(address):
            return False
        if destinations.is_own(address, port, self._own):
            raise Refusal("loop", "The destination is this sidecar itself.")
        return meant or not self._deny_private or destinations.is_public(address)

    def _context(self, tls: Tls | None) -> ssl.SSLContext:
        if tls not in self._contexts:
            self._contexts[tls] = client_context(tls)
        return self._contexts[tls]


def _abort(making: asyncio.Task[tuple[asyncio.Transport, Any]]) -> None:
    """End a connection that nobody waits for any more."""
    if not making.cancelled() and making.exception() is None:
        making.result()[0].abort()


def _literal(host: str) -> Found | None:
    """Return the address that a host is, if it is one and not a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return Found(socket.AF_INET if address.version == 4 else socket.AF_INET6, str(address))  # noqa: PLR2004


def client_context(tls: Tls | None) -> ssl.SSLContext:
    """Return the client's TLS context: verification always on, TLS 1.2 or later, HTTP/1.1 only."""
    made = ssl.create_default_context(cafile=tls.ca if tls else None)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    if tls and tls.cert:
        made.load_cert_chain(tls.cert, tls.key, password="")  # else OpenSSL asks the terminal, and all wait for it
    return made
