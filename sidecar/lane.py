"""One route, ready to be driven on: its rules, its connections, its counters, its part of the token key.

Made once per configuration, so that a request finds everything prepared. Carries out for one exchange what `proxy`
decides: take a credential, send the request with it, judge a 401, answer a refusal.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sidecar import replay
from sidecar.callers.recognise import admit, recognise
from sidecar.credentials.attended import Open
from sidecar.credentials.broker import StillRejectedError
from sidecar.errors import Refusal
from sidecar.headers import RETURNING, Changes, RequestRules, ResponseRules, binds, one_hop_less, wants_upgrade
from sidecar.model import APPLICATION, Caller, Target, TokenKey
from sidecar.wire.awaiting import settle
from sidecar.wire.exchange import too_large
from sidecar.wire.problem import new_request_id, problem

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sidecar.callers import AppKind, SessionKind
    from sidecar.credentials.broker import Broker
    from sidecar.credentials.entry import Credential
    from sidecar.message import Peer, RequestHead, ResponseHead
    from sidecar.metrics import RouteTally
    from sidecar.settings import Login, Match, Route
    from sidecar.wire.exchange import Exchange
    from sidecar.wire.pool import Pool

SWITCHING: Final = 101
UNAUTHORIZED: Final = 401
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What follows from a request's speaking lines on one route, for one peer: the same for all that repeat them."""

    peer: Peer
    key: TokenKey | None  # None: this route sends no token
    upgrade: bool
    changes: Changes


class Shared:
    """What all lanes of one configuration share.

    `access` writes the access line: of an exchange, with its route and request id. `refused` writes the line of a
    refusal, its route last. `clock` gives seconds since the epoch. `login` is the sidecar's own sign-in. A route takes
    `most_requests` under way at once, where it does not say.
    """

    __slots__ = ("access", "apps", "broker", "clock", "login", "most_requests", "refused", "response_rules", "sessions")

    def __init__(
        self,
        apps: tuple[AppKind, ...],
        sessions: tuple[SessionKind, ...],
        broker: Broker,
        response_rules: ResponseRules,
        access: Callable[[Exchange, str, str], None] | None = None,
        clock: Callable[[], float] = time.time,
        login: Login | None = None,
        refused: Callable[[Exchange, Refusal, str], None] | None = None,
        most_requests: int = sys.maxsize,
    ) -> None:
        self.apps = apps
        self.sessions = sessions
        self.broker = broker
        self.response_rules = response_rules
        self.access = access
        self.clock = clock
        self.login = login
        self.refused = refused
        self.most_requests = most_requests


class Lane:
    """A route of the configuration with everything that its requests need.

    One that is not `lasting` stands for a destination that a caller thought of: as there is no end of those, nothing is
    remembered for it.
    """

    __slots__ = (
        "_base", "_host", "_lasting", "_most", "_prefix", "_shared", "_strip", "body_limit", "fingerprint",
        "longest_body", "match", "pool", "response_rules", "route", "rules", "tally", "timeout", "token", "under_way",
    )  # fmt: skip

    def __init__(
        self,
        route: Route,
        shared: Shared,
        pool: Pool,
        rules: RequestRules,
        tally: RouteTally,
        *,
        lasting: bool = True,
    ) -> None:
        self.route = route
        self.match: Match = route.match
        self.pool = pool
        self.rules = rules
        self.tally = tally
        self.response_rules = shared.response_rules
        self.timeout = route.timeout
        self.token = route.as_ != "none"
        self.body_limit = route.replay.body_limit if self.token else 0
        self.longest_body = route.body_limit
        self.under_way = 0  # requests that were given to this lane and are not over
        self._lasting = lasting
        self._most = route.requests or shared.most_requests
        self.fingerprint = route.spec.fingerprint if route.spec else ""
        self._shared = shared
        self._host = route.upstream.authority.encode("ascii")
        self._prefix = f"{route.header}: {route.scheme} ".encode("ascii")
        self._base = route.base_path.encode("ascii")
        self._strip = route.match.path.rstrip("/").count("/") if route.strip_prefix else 0

    # -- the corridor's side ------------------------------------------------------------------------------------

    def prepare(self, head: RequestHead, peer: Peer) -> Prepared:
        """Recognise the caller, see that it may be here, and choose the header lines; raise `Refusal`."""
        headers = head.headers
        prepared: Prepared | None = headers.memo.get(self)
        if prepared is None or prepared.peer != peer:
            caller = recognise(self._shared.apps, self._shared.sessions, head, peer, self.route.as_)
            admit(caller, peer, self.route.allow, bool(self._shared.apps))
            upgrade = wants_upgrade(head)
            changes = self.rules.changes(headers, self._host, upgrade=upgrade, minor=head.minor)
            prepared = Prepared(peer, self._key(caller), upgrade, changes)
            if changes.shared and self._lasting:
                self.pool.wire.requests.remember(headers.memo, self, prepared)
        return prepared

    def drive(self, exchange: Exchange, prepared: Prepared) -> None:
        """Take the credential and send the request: at once if the token is at hand, else when it is."""
        if self.under_way > self._most:
            raise Refusal("overloaded", "Too many requests of this route are under way.", retry_after=1)
        if self.longest_body is not None and exchange.framing.length > self.longest_body:
            raise too_large(self.longest_body)
        exchange.upgrade = prepared.upgrade
        exchange.key = key = prepared.key
        if key is None:
            exchange.binds = binds(exchange.head.headers)
            self._send(exchange, prepared)
            return
        credential = exchange.credential = self._shared.broker.ready(key, self._shared.clock())
        if credential is not None:
            self.tally.cache["hit"] += 1
            self._send(exchange, prepared)
        else:
            self.tally.cache["miss"] += 1
            exchange.wait(self._obtain_and_send(exchange, prepared, key))

    # -- the wire's side: `Errand` ------------------------------------------------------------------------------

    def responded(self, exchange: Exchange, head: ResponseHead) -> bool:
        """Hold back a 401 that a new token may turn into an answer."""
        credential = exchange.credential
        if credential is None:
            return False
        if head.status != UNAUTHORIZED:
            if credential.suspect:
                self._shared.broker.accepted(credential)
            return False
        return not exchange.replayed and self._unauthorized(exchange, head)

    def over(self, exchange: Exchange) -> None:
        """Count the exchange and write its line; a connection that is now a tunnel ends with its session."""
        status = exchange.status
        self.under_way -= 1
        if status > SWITCHING:
            if not exchange.refused:
                self.tally.answered(status, time.perf_counter() - exchange.began)
        elif status:
            self._switched(exchange)
        if self._shared.access is not None:
            self._shared.access(exchange, self.route.name, request_id(exchange))

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answer a refusal."""
        self.tally.refused(refusal.code)
        if self._shared.refused is not None:
            self._shared.refused(exchange, refusal, self.route.name)
        login = self._shared.login
        answer(exchange, refusal, login.url(self.route.provider) if login else None)

    def _switched(self, exchange: Exchange) -> None:
        self.tally.answered(exchange.status, time.perf_counter() - exchange.began)
        if exchange.key is not None:
            downstream = exchange.downstream
            opened = Open(lambda: downstream in downstream.wire.downstreams, downstream.abort)
            self._shared.broker.attend(exchange.key, opened)

    # -- inside -------------------------------------------------------------------------------------------------

    def _key(self, caller: Caller) -> TokenKey | None:
        if not self.token:
            return None
        return TokenKey(self.fingerprint, caller.session.reveal() if caller.session else APPLICATION)

    def _send(self, exchange: Exchange, prepared: Prepared) -> None:
        head = exchange.head
        target = exchange.target
        path = target.path if target is not None else head.target
        if self._strip:
            path = without_segments(path, self._strip)
        if path != b"*":
            path = self._base + path
        section = prepared.changes.apply(head.headers.section)
        if head.method in RETURNING:
            section = one_hop_less(section)
        credential = exchange.credential
        line = self._prefix + credential.token + b"\r\n" if credential is not None else b""
        exchange.send(self.pool, b"".join((head.method, b" ", path, b" HTTP/1.1", section, line, b"\r\n")))

    def _obtain_and_send(self, exchange: Exchange, prepared: Prepared, key: TokenKey) -> Coroutine[Any, Any, None]:
        def send(credential: Credential) -> None:
            exchange.credential = credential
            self._send(exchange, prepared)

        work = partial(self._shared.broker.obtain, key)
        return settle(work, send, partial(self._not_obtained, exchange), Refusal, StillRejectedError)

    def _not_obtained(self, exchange: Exchange, error: Exception) -> None:
        if isinstance(error, Refusal):
            self.refuse(exchange, error)
        else:
            # Every token we get is rejected, and asking more often will not help: fail fast until the pause is over.
            detail = "The upstream rejects every token that the authorization server gives."
            self.refuse(exchange, Refusal("provider_invalid", detail))

    def _unauthorized(self, exchange: Exchange, head: ResponseHead) -> bool:
        challenges = head.all(b"www-authenticate")
        verdict = replay.judge(challenges, exchange.head.method, self.route.replay.unsafe)
        key = exchange.key
        if verdict is replay.Verdict.PASS or key is None:
            return False
        renew = partial(self._shared.broker.obtain, key, rejected=exchange.credential)
        if exchange.untouched() or (verdict is replay.Verdict.REPLAY and exchange.complete and exchange.whole()):
            not_renewed = partial(self._not_renewed, exchange)
            exchange.wait(settle(renew, partial(self._replay, exchange), not_renewed, Refusal, StillRejectedError))
            return True
        # For the next request, which is told: this one may have been acted on, its 401 goes to the caller.
        exchange.wait_apart(settle(renew, _nothing, _nothing, Refusal, StillRejectedError))
        return False

    def _replay(self, exchange: Exchange, credential: Credential) -> None:
        exchange.credential = credential
        exchange.replayed = True
        self.tally.replays += 1
        exchange.detach()
        self._send(exchange, self.prepare(exchange.head, exchange.downstream.peer))

    def _not_renewed(self, exchange: Exchange, error: Exception) -> None:
        if isinstance(error, Refusal):
            self.refuse(exchange, error)
        else:
            exchange.resume()


def _nothing(_outcome: object) -> None:
    """Take note of nothing."""


def without_segments(path: bytes, count: int) -> bytes:
    """Take the first `count` segments off a path with its query."""
    bare, mark, query = path.partition(b"?")
    segments = bare.split(b"/", count + 1)
    return b"/" + (segments[count + 1] if len(segments) > count + 1 else b"") + mark + query


def request_id(exchange: Exchange) -> str:
    """Return the request's own X-Request-Id where it is well formed, else one made for it: always the same."""
    if not exchange.request_id:
        given = (value for value in exchange.head.all(b"x-request-id") if _REQUEST_ID.match(value))
        exchange.request_id = next(given, b"").decode("ascii") or new_request_id()
    return exchange.request_id


def answer(exchange: Exchange, refusal: Refusal, login_url: str | None = None) -> None:
    """Write the problem document; a request whose body has not come yet ends the connection.

    So does CONNECT: what follows it was meant for the tunnel, and may be the words of somebody else than the caller.
    `login_url` is where the user signs in: told where that is what is missing, to a browser as well. It is the
    application that sends a browser there; what asks for an API is never redirected.
    """
    status, headers = challenge(refusal, exchange.target, login_url)
    unread = not exchange.complete or exchange.head.method == b"CONNECT"
    close = refusal.close or unread or not exchange.downstream.keep_alive
    if close:
        exchange.downstream.keep_alive = False
    response = problem(
        refusal,
        status=status,
        request_id=request_id(exchange),
        headers=headers,
        members={"login_url": login_url} if login_url and refusal.name == "login_required" else None,
        close=close,
        head_only=exchange.head.method == b"HEAD",
    )
    exchange.refuse(response, status)


def challenge(
    refusal: Refusal, target: Target | None, login_url: str | None
) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Return the status and the challenge: a proxy asks by 407, a server by 401 (RFC 9110 section 11)."""
    if refusal.name == "caller_unknown":
        if target is None or target.form in ("absolute", "authority"):
            return 407, (("Proxy-Authenticate", 'Basic realm="sidecar"'),)
        return 401, (("WWW-Authenticate", 'Sidecar realm="application"'),)
    if refusal.name == "login_required":
        where = f', login_url="{login_url}"' if login_url else ""
        return 401, (("WWW-Authenticate", f'Sidecar realm="session"{where}'),)
    return refusal.row.status, ()
