"""An authorization server, as the only sender to it sees it: token requests, revocation, back-off.

Decides nothing about tokens: `oauth` says what a request looks like and what an answer means, `oauth.pacing` when the
next may be sent. A provider's faults are outcomes, never exceptions. Each provider has its own connections, its own
cap and its own back-off, so a slow one harms no other. RFC 6749 section 3.2, RFC 7009.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, NamedTuple

import structlog

from sidecar.gate import Gate, Urgency
from sidecar.model import ClientRefused, Form, Granted, GrantRefused, Invalid, Outcome, Secret, Unavailable
from sidecar.oauth.authorization import read_push
from sidecar.oauth.client_auth import authenticate
from sidecar.oauth.error_codes import shown
from sidecar.oauth.metadata import Metadata
from sidecar.oauth.pacing import Pacer, Request
from sidecar.oauth.token_response import judge
from sidecar.provider_http import NOT_SENT, Http
from sidecar.provider_keys import Keys
from sidecar.provider_metadata import Discovery, Found

if TYPE_CHECKING:
    from sidecar.oauth.signature import KeySet
    from sidecar.provider_http import Reply, Wanted
    from sidecar.settings import ProviderSettings

LATE = 20
"""Seconds after the total timeout for which the answer to a renewal is still waited for."""
RESULTS: dict[type[Outcome], str] = {
    Granted: "granted",
    GrantRefused: "grant_refused",
    ClientRefused: "client_refused",
    Unavailable: "unavailable",
    Invalid: "invalid",
}
BACKED_OFF = "backed_off"

_log = structlog.get_logger()


Late = Callable[["asyncio.Task[Outcome]"], None]
"""Takes over the answer to a token request that has timed out."""


class ProviderState(NamedTuple):
    """What readiness and the status page show. `retry_at` is seconds since the epoch."""

    name: str
    reachable: bool | None  # None before the first answer
    last_error: str  # a class of reason in this program's words; empty after a success
    retry_at: float | None
    metadata_loaded: bool


class AuthorizationServer:
    """The authorization server of `settings`. Making it sends nothing.

    `clock` gives seconds since the epoch, `jitter` a number from 0 to 1. Raises OSError (ssl.SSLError) for unusable TLS
    files and `MetadataError` for unusable URLs in the file. `requests` counts token requests by result.
    """

    def __init__(self, settings: ProviderSettings, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        self.requests = dict.fromkeys((*RESULTS.values(), BACKED_OFF), 0)
        self._settings = settings
        self._clock = clock
        self._jitter = jitter
        self._http = Http(settings)
        self._discovery = Discovery(settings, self._http.get, clock)
        self._keys = Keys(self._http.get, clock)
        self._pacer = Pacer()
        self._gate = Gate(settings.limit.at_once, settings.limit.per_second)
        self._reachable: bool | None = None
        self._last_error = ""

    def outdated(self) -> bool:
        """Say whether the TLS files of the settings hold something else by now."""
        return self._http.outdated()

    @property
    def at_rest(self) -> bool:
        """Say whether it has neither requests under way nor connections."""
        return self._http.at_rest

    async def token(
        self,
        form: Form,
        *,
        asked: frozenset[str],
        late: Late | None = None,
        urgency: Urgency | None = None,
        wanted: Wanted | None = None,
    ) -> Outcome:
        """Send a token request with the parameters of `form`, for the scope `asked`, and return what came of it.

        Takes at most the total timeout, once it has waited for its turn for at most as long: a provider is not to blame
        for our line. While backing off it answers at once. Raises nothing but CancelledError.
        A request that has timed out is broken off, but with `late`, which is given a task: its result is the answer
        that may come within `LATE` seconds more (one that rotated a refresh token has the only one that is left).
        `urgency` says whether a caller waits: those requests go first. `wanted` is asked in the moment of sending:
        where it says no, nothing is sent and the outcome is `NOT_SENT`.
        """
        request = Request.of(form)
        refusal = self._pacer.refusal(request, self._clock()) or self._crowded(urgency)
        if refusal is None:
            try:
                async with asyncio.timeout(self._settings.timeout.total) as waiting, self._gate.turn(urgency):
                    # Asked again: what had the slot before may have failed.
                    refusal = self._pacer.admit(request, self._clock(), self._jitter())
                    if refusal is None:
                        waiting.reschedule(None)
                        exchange = self._exchange(form, asked, wanted)
                        return await self._paced(request, exchange, self._deadline(), late)
            except TimeoutError:
                refusal = Unavailable("busy")
        self.requests[BACKED_OFF] += 1
        return refusal

    def turned_away(self, *, urgent: bool) -> Unavailable | None:
        """Return what any token request would be told at once, None where it depends on the request, or may be sent."""
        until = self._pacer.provider_hold(now := self._clock())
        refusal = self._crowded(Urgency(urgent=urgent)) if until is None else Unavailable("backing_off", until - now)
        self.requests[BACKED_OFF] += refusal is not None
        return refusal

    def resting(self) -> float:
        """Return the seconds for which no token request is sent, after failures of the whole provider."""
        until = self._pacer.provider_hold(now := self._clock())
        return 0.0 if until is None else until - now

    async def revoke(self, token: Secret, hint: str) -> bool:
        """Ask for the revocation of `token` (RFC 7009); `hint` is its token_type_hint. False where not confirmed."""
        if self._pacer.provider_hold(self._clock()) is not None:
            return False
        try:
            async with asyncio.timeout_at(self._deadline()), self._gate.turn():
                metadata = await self._discovery.metadata()
                if not isinstance(metadata, Metadata) or metadata.revocation_endpoint is None:
                    return False
                form = [("token", token.reveal()), ("token_type_hint", hint)]
                reply = await self._post(metadata.revocation_endpoint, form)
        except TimeoutError:
            return False
        return not isinstance(reply, Unavailable | Invalid) and reply.status == 200  # noqa: PLR2004 - section 2.2

    async def push(self, form: Form) -> str | Unavailable | ClientRefused | Invalid:
        """Push an authorization request (RFC 9126); return its `request_uri`, or what came instead.

        Anybody may begin a sign-in, so it is not urgent.
        """
        until = self._pacer.provider_hold(now := self._clock())
        if until is not None:
            return Unavailable("backing_off", until - now)
        try:
            async with asyncio.timeout_at(self._deadline()), self._gate.turn(Urgency(urgent=False)):
                return await self._push(form)
        except TimeoutError:
            return Unavailable("timeout")

    async def keys(self, *, missing: bool = False) -> KeySet | Unavailable | Invalid:
        """Return the server's public keys, or why there are none. `missing`: those returned before lacked one."""
        try:
            async with asyncio.timeout_at(self._deadline()):
                metadata = await self._discovery.metadata()
                if not isinstance(metadata, Metadata):
                    return metadata
                if metadata.jwks_uri is None:
                    return Invalid("metadata_jwks_uri")
                found = await self._keys.keys(metadata.jwks_uri, missing=missing)
                if missing or isinstance(found, Unavailable | Invalid):
                    self._discovery.doubt()
                return found
        except TimeoutError:
            return Unavailable("timeout")

    async def metadata(self) -> Found:
        """Return the server's metadata, discovered if need be, or why there is none."""
        return await self._discovery.metadata()

    def state(self) -> ProviderState:
        """Return what is known of the server, without asking it."""
        return ProviderState(
            self._settings.name,
            self._reachable,
            self._last_error,
            self._pacer.provider_hold(self._clock()),
            self._discovery.known is not None,
        )

    async def close(self) -> None:
        """Close the connections; what is under way ends as unavailable."""
        await self._http.close()
        await self._discovery.close()
        await self._keys.close()

    def _crowded(self, urgency: Urgency | None) -> Unavailable | None:
        """Return at once what a request would be told that cannot get its turn in time."""
        wait = self._gate.expected_wait()
        urgent = urgency is None or urgency.urgent
        return Unavailable("busy", wait) if urgent and wait > self._settings.timeout.total else None

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._settings.timeout.total

    async def _paced(
        self, request: Request, asking: Coroutine[None, None, Outcome], deadline: float, late: Late | None
    ) -> Outcome:
        sent_at, loop = self._clock(), asyncio.get_running_loop()
        exchange = loop.create_task(asking)
        try:
            await asyncio.wait([exchange], timeout=deadline - loop.time())
        except asyncio.CancelledError:
            exchange.cancel()
            raise
        if exchange.done():
            outcome = exchange.result()
        else:
            outcome = Unavailable("timeout")
            if late is None:
                exchange.cancel()
            else:
                late(loop.create_task(self._late(exchange, request, sent_at)))
        now = self._clock()
        if outcome is NOT_SENT:
            return outcome
        self._pacer.record(request, outcome, sent_at=sent_at, now=now, jitter=self._jitter())
        self._note(outcome)
        held_until = self._pacer.provider_hold(now)
        if isinstance(outcome, Unavailable) and held_until is not None:
            return outcome._replace(retry_after=held_until - now)
        return outcome

    async def _late(self, exchange: asyncio.Task[Outcome], request: Request, sent_at: float) -> Outcome:
        """Wait on, second by second: while this process is stopped its patience does not run out."""
        try:
            for _ in range(LATE):
                await asyncio.wait([exchange], timeout=1.0)
                if exchange.done():
                    outcome = exchange.result()
                    if outcome is not NOT_SENT:
                        self._pacer.record(request, outcome, sent_at=sent_at, now=self._clock(), jitter=self._jitter())
                    return outcome
            return Unavailable("timeout")
        finally:
            exchange.cancel()

    async def _exchange(self, form: Form, asked: frozenset[str], wanted: Wanted | None) -> Outcome:
        metadata = await self._discovery.metadata()
        if not isinstance(metadata, Metadata):
            return metadata
        requested_at = self._clock()
        reply = await self._post(metadata.token_endpoint, form, wanted)
        if isinstance(reply, Unavailable | Invalid):
            return reply
        return judge(reply.status, reply.headers, reply.body, requested_at=requested_at, asked=asked, now=self._clock())

    async def _push(self, form: Form) -> str | Unavailable | ClientRefused | Invalid:
        metadata = await self._discovery.metadata()
        if not isinstance(metadata, Metadata):
            return metadata
        if metadata.pushed_authorization_request_endpoint is None:
            return Invalid("metadata_pushed_authorization_request_endpoint")
        headers, authenticated = authenticate(self._settings, [pair for pair in form if pair[0] != "client_id"])
        if not any(name == "client_id" for name, _ in authenticated):  # RFC 9126 section 2.1: also beside Basic
            authenticated = [("client_id", self._settings.client_id), *authenticated]
        reply = await self._http.post(metadata.pushed_authorization_request_endpoint, headers, authenticated)
        if isinstance(reply, Unavailable | Invalid):
            return reply
        request_uri = read_push(reply.status, reply.body)
        if request_uri is not None:
            return request_uri
        now = self._clock()
        outcome = judge(reply.status, reply.headers, reply.body, requested_at=now, asked=frozenset(), now=now)
        return outcome if isinstance(outcome, Unavailable | ClientRefused) else Invalid("request_uri")

    async def _post(self, endpoint: str, form: Form, wanted: Wanted | None = None) -> Reply:
        headers, authenticated = authenticate(self._settings, form)
        return await self._http.post(endpoint, headers, authenticated, wanted)

    def _note(self, outcome: Outcome) -> None:
        result, before = RESULTS[type(outcome)], self._last_error
        self.requests[result] += 1
        self._reachable = not isinstance(outcome, Unavailable | Invalid)
        if not isinstance(outcome, Granted | GrantRefused):
            self._discovery.doubt()
        if isinstance(outcome, Unavailable | Invalid):
            self._last_error = outcome.reason
        else:
            self._last_error = result if isinstance(outcome, ClientRefused) else ""
        if self._last_error != before:
            self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        """Log what changed about the provider, once: while it stays so each refused request has its own line."""
        name, error = self._settings.name, getattr(outcome, "error", None)
        if not self._last_error:
            _log.info("provider_recovered", provider=name)
        elif error is None:
            _log.warning("provider_failing", provider=name, reason=self._last_error)
        else:
            _log.warning("provider_failing", provider=name, reason=self._last_error, error=shown(error))
