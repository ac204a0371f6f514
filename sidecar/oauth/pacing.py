"""When the next token request may be sent: exponential back-off with jitter, and what is answered meanwhile.

No I/O and no clock: `now` and `jitter` (0 to 1) are arguments. What is held back depends on what failed:

| outcome | held back | answered meanwhile |
|---|---|---|
| Unavailable | every request to this provider | Unavailable |
| Invalid | requests of the same grant, scope, audience and resources | Unavailable |
| ClientRefused that concerns the client or the grant | the same | that refusal |
| ClientRefused, GrantRefused otherwise | this very request (one user's fault is not another's) | that refusal |
| for the code of a sign-in: 500, 502, 504, cut off, timeout, Invalid | this very request | Unavailable |

Anybody can bring a code to the redirect URI. One that a server stumbles over, or that a firewall before it dislikes
(some cut the connection off, some never answer), must not keep others from their tokens.

A hold lasts 1, 2, 4 … at most 60 s, less up to half of it by jitter, or the Retry-After. When it is over one request
goes out as a probe and the hold is prolonged for the rest; the first success ends it. Requests that were
in flight together count as one failure.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import NamedTuple
from urllib.parse import urlencode

from sidecar.model import ClientRefused, Form, Granted, GrantRefused, Invalid, Outcome, Unavailable

BASE = 1.0
CEILING = 60.0
MAX_HOLDS = 4096

_CLIENT_WIDE = frozenset({"invalid_client", "unauthorized_client", "unsupported_grant_type"})
_STUMBLED = frozenset({"http_500", "http_502", "http_504", "server_error", "broken_off", "timeout"})
_ROUTE_NAMES = frozenset({"grant_type", "scope", "audience", "resource"})
_PROVIDER = ""


class Request(NamedTuple):
    """What one token request has in common with others: `route` with those for the same route, `exact` with none."""

    route: str
    exact: str

    @property
    def is_sign_in(self) -> bool:
        """Whether it exchanges a code, which a browser brought (RFC 6749 section 4.1.3)."""
        return "grant_type=authorization_code" in self.route

    @classmethod
    def of(cls, form: Form) -> Request:
        """Return the keys of a form; the one made of secret values is a hash."""
        route = urlencode([(name, value) for name, value in form if name in _ROUTE_NAMES])
        return cls("route:" + route, "exact:" + hashlib.sha256(urlencode(form).encode()).hexdigest())


class Hold(NamedTuple):
    """No request until `until`. `since` is when the last failure was counted; both seconds since the epoch."""

    failures: int
    since: float
    until: float
    outcome: Outcome

    def lasts(self, now: float) -> bool:
        """Say whether it is not over. Before its own failure it never is one: the clock was set back."""
        return self.since <= now < self.until


def pause(failures: int, jitter: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait after that many failures in a row; never less than the server asked for."""
    backoff = min(BASE * 2.0 ** min(failures - 1, 10), CEILING) * (1 - jitter / 2)
    return backoff if retry_after is None else max(backoff, retry_after * (1 + jitter / 10))


class Pacer:
    """The holds of one provider."""

    def __init__(self) -> None:
        self._holds: OrderedDict[str, Hold] = OrderedDict()

    def refusal(self, request: Request, now: float) -> Outcome | None:
        """Return what is answered without asking the provider, None where the provider may be asked."""
        for key in (_PROVIDER, *request):
            hold = self._holds.get(key)
            if hold is not None and hold.lasts(now):
                return _meanwhile(hold, now)
        return None

    def admit(self, request: Request, now: float, jitter: float) -> Outcome | None:
        """Like `refusal`; where the provider may be asked though it failed before, the others wait for this probe."""
        refusal = self.refusal(request, now)
        if refusal is None:
            # A sign-in's code may be made up: what comes of it says little, so nobody else waits for it.
            for key in request if request.is_sign_in else (_PROVIDER, *request):
                hold = self._holds.get(key)
                if hold is not None:
                    since, until = min(hold.since, now), now + pause(hold.failures, jitter)
                    self._holds[key] = hold._replace(since=since, until=until)
        return refusal

    def record(self, request: Request, outcome: Outcome, *, sent_at: float, now: float, jitter: float) -> None:
        """Learn from the outcome of a request that was admitted at `sent_at`."""
        if isinstance(outcome, Granted | GrantRefused | ClientRefused):
            self._holds.pop(_PROVIDER, None)
        if isinstance(outcome, Granted):
            self._holds.pop(request.route, None)
            self._holds.pop(request.exact, None)
        else:
            self._hold(_held_back(outcome, request), outcome, sent_at, now, jitter)

    def provider_hold(self, now: float) -> float | None:
        """Return until when the whole provider is held back, None where it is not."""
        hold = self._holds.get(_PROVIDER)
        return hold.until if hold is not None and hold.lasts(now) else None

    def _hold(self, key: str, outcome: Outcome, sent_at: float, now: float, jitter: float) -> None:
        before = self._holds.get(key)
        counted = before is not None and sent_at < before.since <= now
        failures = (before.failures if before else 0) + (0 if counted else 1)
        retry_after = outcome.retry_after if isinstance(outcome, Unavailable) else None
        until = now + pause(failures, jitter, retry_after)
        if before is not None and counted:
            until = max(until, before.until)
        self._holds[key] = Hold(failures, before.since if before and counted else now, until, outcome)
        self._holds.move_to_end(key)
        if len(self._holds) > MAX_HOLDS:
            self._holds.popitem(last=False)


def _held_back(outcome: Outcome, request: Request) -> str:
    if request.is_sign_in and _may_be_the_codes_fault(outcome):
        return request.exact
    if isinstance(outcome, Unavailable):
        return _PROVIDER
    wide = isinstance(outcome, Invalid) or (isinstance(outcome, ClientRefused) and outcome.error in _CLIENT_WIDE)
    return request.route if wide else request.exact


def _may_be_the_codes_fault(outcome: Outcome) -> bool:
    if isinstance(outcome, Unavailable):
        return outcome.reason in _STUMBLED and outcome.retry_after is None
    return isinstance(outcome, Invalid)


def _meanwhile(hold: Hold, now: float) -> Outcome:
    if isinstance(hold.outcome, ClientRefused | GrantRefused):
        return hold.outcome
    return Unavailable("backing_off", hold.until - now)
