"""The public keys of one authorization server: fetched when first needed, kept, looked for again when one is unknown.

Fetches through the function it is given, one flight for all who wait. A key that is not among those kept is worth one
look every `PAUSE` seconds and no more: whoever makes up key names causes no flood (case IDP-16). Keys that were found
stay while newer ones cannot be had, for at most `LIFE`. OpenID Connect Core section 10.1.1.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.model import Invalid, Unavailable
from sidecar.oauth.document import DocumentError
from sidecar.oauth.token_response import judge_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.oauth.signature import KeySet
    from sidecar.provider_http import Answer, Reply

PAUSE = 30.0
FRESH = 3600.0
"""Seconds after which the keys are fetched again although none was missing: so a withdrawn key is not believed long."""
LIFE = 24 * 3600.0
RETRY = 5.0
PATIENCE = 2.0
"""Seconds that newer keys are waited for where those that are known will do."""


class Keys:
    """The keys at one `jwks_uri`. `get` fetches a URL, `clock` gives seconds since the epoch."""

    def __init__(self, get: Callable[[str], Awaitable[Reply]], clock: Callable[[], float]) -> None:
        self._get = get
        self._clock = clock
        self._uri = ""
        self._known: KeySet | None = None
        self._fetched_at = 0.0
        self._next_look = 0.0
        self._flight: asyncio.Task[KeySet | Unavailable | Invalid] | None = None

    async def keys(self, uri: str, *, missing: bool = False) -> KeySet | Unavailable | Invalid:
        """Return the keys at `uri`, or why there are none. `missing`: those returned before lacked one."""
        now = self._clock()
        if uri != self._uri:
            self._uri, self._known, self._next_look, self._flight = uri, None, 0.0, None
        age = now - self._fetched_at
        known = self._known if age < LIFE else None
        wanted = known is None or missing or age >= FRESH
        if not wanted or (now < self._next_look <= now + PAUSE and self._flight is None):
            return known if known is not None else Unavailable("keys", self._next_look - now)
        self._flight = flight = self._flight or asyncio.create_task(self._fly(uri))
        if known is not None and not missing and not (await asyncio.wait([flight], timeout=PATIENCE))[0]:
            return known
        found = await asyncio.shield(flight)
        return known if known is not None and isinstance(found, Unavailable | Invalid) else found

    async def close(self) -> None:
        """Wait for the flight, which ends at once when the connections are closed before."""
        if self._flight is not None:
            await asyncio.wait([self._flight])

    async def _fly(self, uri: str) -> KeySet | Unavailable | Invalid:
        try:
            found = await self._fetch(uri)
        finally:
            if uri == self._uri:
                self._flight = None
        if uri == self._uri:
            now = self._clock()
            self._next_look = now + (RETRY if isinstance(found, Unavailable | Invalid) else PAUSE)
            if not isinstance(found, Unavailable | Invalid):
                self._known, self._fetched_at = found, now
        return found

    async def _fetch(self, uri: str) -> KeySet | Unavailable | Invalid:
        reply = await self._get(uri)
        return reply if isinstance(reply, Unavailable | Invalid) else self._read(reply)

    def _read(self, answer: Answer) -> KeySet | Unavailable | Invalid:
        from sidecar.oauth.signature import read_key_set  # noqa: PLC0415 - joserfc takes 150 ms, and only sign-in needs it

        trouble = judge_status(answer.status, answer.headers, self._clock())
        if trouble is not None:
            return trouble
        try:
            return read_key_set(answer.body)
        except DocumentError:
            return Invalid("keys")
