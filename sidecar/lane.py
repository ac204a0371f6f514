"""One route, ready to be driven on: its rules, its connections, its counters, its part of the token key.

Made once per configuration, so that a request finds everything prepared. Carries out for one exchange what `proxy`
decides: take a credential, send the request with it, judge a 401, answer a refusal.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from sidecar import replay
from sidecar.credentials.broker import StillRejectedError
from sidecar.errors import Refusal
from sidecar.headers import RequestRules, ResponseRules, wants_upgrade
from sidecar.model import APPLICATION, Caller, Target, TokenKey
from sidecar.wire.problem import problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.credentials.broker import Broker, Credential
    from sidecar.message import RequestHead, ResponseHead
    from sidecar.metrics import RouteTally
    from sidecar.settings import Match, Route
    from sidecar.wire.exchange import Exchange
    from sidecar.wire.pool import Pool

UNAUTHORIZED = 401
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")


class Passage:
    """What the corridor knows of one request that is under way. `began` is time.perf_counter()."""

    __slots__ = ("began", "credential", "key", "replayed", "target")

    def __init__(self, target: Target, key: TokenKey | None) -> None:
        self.target = target
        self.key = key
        self.credential: Credential | None = None
        self.replayed = False
        self.began = time.perf_counter()


class Shared(NamedTuple):
    """What all lanes of one configuration share."""

    broker: Broker
    response_rules: ResponseRules
    access: Callable[[Exchange, str, str], None] | None  # writes the access line: exchange, route, request id


class Lane:
    """A route of the configuration with everything that its requests need."""

    __slots__ = (
        "_base", "_broker", "_host", "_prefix", "_strip", "access", "body_limit", "fingerprint", "match", "pool",
        "response_rules", "route", "rules", "tally", "timeout", "token",
    )  # fmt: skip

    def __init__(self, route: Route, shared: Shared, pool: Pool, rules: RequestRules, tally: RouteTally) -> None:
        self.route = route
        self.match: Match = route.match
        self.pool = pool
        self.rules = rules
        self.tally = tally
        self.response_rules = shared.response_rules
        self.access = shared.access
        self.timeout = route.timeout
        self.token = route.as_ != "none"
        self.body_limit = route.replay.body_limit if self.token else 0
        self.fingerprint = route.spec.fingerprint if route.spec else ""
        self._broker = shared.broker
        self._host = route.upstream.authority.encode("ascii")
        self._prefix = f"{route.header}: {route.scheme} ".encode("ascii")
        self._base = route.base_path.encode("ascii")
        self._strip = route.match.path.rstrip("/").count("/") if route.strip_prefix else 0

    # -- the corridor's side ------------------------------------------------------------------------------------

    def key(self, caller: Caller) -> TokenKey | None:
        """Return the key of the token that this caller's request needs; None where the route sends none."""
        if not self.token:
            return None
        return TokenKey(self.fingerprint, caller.session.reveal() if caller.session else APPLICATION)

    def drive(self, exchange: Exchange, passage: Passage) -> None:
        """Take the credential and send the request: at once if the token is at hand, else when it is."""
        exchange.passage = passage
        key = passage.key
        if key is None:
            self._send(exchange, passage)
            return
        credential = passage.credential = self._broker.ready(key, time.time())
        if credential is not None:
            self.tally.cache["hit"] += 1
            self._send(exchange, passage)
        else:
            self.tally.cache["miss"] += 1
            exchange.wait(self._obtain_and_send(exchange, passage, key))

    # -- the wire's side: `Errand` ------------------------------------------------------------------------------

    def responded(self, exchange: Exchange, head: ResponseHead) -> bool:
        """Hold back a 401 that a new token may turn into an answer."""
        passage: Passage = exchange.passage
        credential = passage.credential
        if credential is None:
            return False
        if head.status != UNAUTHORIZED:
            if credential.suspect:
                self._broker.accepted(credential)
            return False
        if passage.replayed:
            return False
        challenges = head.all(b"www-authenticate")
        verdict = replay.judge(challenges, exchange.head.method, self.route.replay.unsafe)
        if verdict is replay.Verdict.PASS:
            return False
        if exchange.untouched() or (verdict is replay.Verdict.REPLAY and exchange.complete and exchange.whole()):
            exchange.wait(self._renew_and_replay(exchange, passage))
            return True
        exchange.wait_apart(self._renew(passage))
        return False

    def over(self, exchange: Exchange) -> None:
        """Count the exchange and write its line."""
        passage: Passage | None = exchange.passage
        if passage is not None and exchange.status:
            self.tally.answered(exchange.status, time.perf_counter() - passage.began)
        if self.access is not None:
            self.access(exchange, self.route.name, request_id(exchange.head))

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answer a refusal."""
        self.tally.refused(refusal.code)
        answer(exchange, refusal)

    # -- inside -------------------------------------------------------------------------------------------------

    def _send(self, exchange: Exchange, passage: Passage) -> None:
        head = exchange.head
        lines = self.rules.lines(head, self._host, upgrade=exchange.upgrade)
        path = passage.target.path
        if self._strip:
            path = _without_segments(path, self._strip)
        lines.insert(0, b"%b %b%b HTTP/1.1" % (head.method, self._base, path) if path != b"*" else b"OPTIONS * HTTP/1.1")
        credential = passage.credential
        if credential is not None:
            lines.append(self._prefix + credential.token)
        lines.append(b"\r\n")
        exchange.send(self.pool, b"\r\n".join(lines))

    async def _obtain_and_send(self, exchange: Exchange, passage: Passage, key: TokenKey) -> None:
        try:
            passage.credential = await self._broker.obtain(key)
        except Refusal as refusal:
            self.refuse(exchange, refusal)
        except StillRejectedError:
            # Every token we get is rejected, and asking more often will not help: fail fast until the pause is over.
            detail = "The upstream rejects every token that the authorization server gives."
            self.refuse(exchange, Refusal("provider_invalid", detail))
        else:
            self._send(exchange, passage)

    async def _renew_and_replay(self, exchange: Exchange, passage: Passage) -> None:
        key = passage.key
        if key is None:
            return
        try:
            credential = await self._broker.obtain(key, rejected=passage.credential)
        except StillRejectedError:
            exchange.resume()
        except Refusal as refusal:
            self.refuse(exchange, refusal)
        else:
            passage.credential = credential
            passage.replayed = True
            self.tally.replays += 1
            exchange.detach()
            self._send(exchange, passage)

    async def _renew(self, passage: Passage) -> None:
        """Renew for the next request: this one may have been acted on, its 401 goes to the caller."""
        if passage.key is None:
            return
        try:
            await self._broker.obtain(passage.key, rejected=passage.credential)
        except (Refusal, StillRejectedError):
            return  # the next request of this key is told


def _without_segments(path: bytes, count: int) -> bytes:
    """Take the first `count` segments off a path with its query."""
    bare, mark, query = path.partition(b"?")
    return b"/" + bare.split(b"/", count + 1)[count + 1] + mark + query if bare.count(b"/") > count else b"/" + mark + query


def upgrade_of(exchange: Exchange) -> bool:
    """Say whether the exchange may become a tunnel: an upgrade without a body."""
    return exchange.complete and wants_upgrade(exchange.head)


def request_id(head: RequestHead) -> str:
    """Return the request's own X-Request-Id where it is well formed, else a new one."""
    for value in head.all(b"x-request-id"):
        if _REQUEST_ID.match(value):
            return value.decode("ascii")
    return os.urandom(8).hex()


def answer(exchange: Exchange, refusal: Refusal) -> None:
    """Write the problem document; a request whose body has not come yet ends the connection."""
    passage = exchange.passage
    status, headers = _challenge(refusal, passage.target if passage is not None else exchange.target)
    close = refusal.close or not exchange.complete or not exchange.downstream.keep_alive
    if close:
        exchange.downstream.keep_alive = False
    response = problem(
        refusal,
        status=status,
        request_id=request_id(exchange.head),
        headers=headers,
        close=close,
        head_only=exchange.head.method == b"HEAD",
    )
    exchange.refuse(response, status)


def _challenge(refusal: Refusal, target: Target | None) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Return the status and the challenge: a proxy asks by 407, a server by 401 (RFC 9110 section 11)."""
    if refusal.name == "caller_unknown":
        if target is None or target.form in ("absolute", "authority"):
            return 407, (("Proxy-Authenticate", 'Basic realm="sidecar"'),)
        return 401, (("WWW-Authenticate", 'Sidecar realm="application"'),)
    if refusal.name == "login_required":
        return 401, (("WWW-Authenticate", 'Sidecar realm="session"'),)
    return refusal.row.status, ()
