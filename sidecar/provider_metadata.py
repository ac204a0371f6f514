"""The endpoints of one authorization server: by hand from the file, or discovered when first needed and kept.

Fetches through the function it is given, one flight for all who wait. What was found serves for 24 h and longer, while
a newer copy cannot be had; for minutes where an endpoint fails, which may have moved. OpenID Connect Discovery 1.0
section 4, RFC 8414 section 3.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sidecar.model import Invalid, Unavailable
from sidecar.oauth.document import DocumentError, read_object
from sidecar.oauth.metadata import Metadata, MetadataError, is_endpoint, read_metadata, well_known_urls
from sidecar.oauth.token_response import judge_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.provider_http import Answer, Reply
    from sidecar.settings import ProviderSettings

LIFE = 24 * 3600.0
RETRY = 300.0  # seconds until a copy that could not be renewed, or is in doubt, is asked for again
PAUSE = 0.5
"""Seconds for which a look that found nothing is the answer: sign-ins and logout tokens, which anybody may send, want
the metadata too. No longer than the shortest hold of `oauth.pacing`, whose probes are to look anew."""

Found = Metadata | Unavailable | Invalid

BY_HAND = (
    "token_endpoint",
    "revocation_endpoint",
    "authorization_endpoint",
    "jwks_uri",
    "end_session_endpoint",
    "pushed_authorization_request_endpoint",
)


class Discovery:
    """The metadata of the authorization server of `settings`; `MetadataError` for unusable URLs in the file."""

    def __init__(
        self, settings: ProviderSettings, get: Callable[[str], Awaitable[Reply]], clock: Callable[[], float]
    ) -> None:
        self._issuer = settings.issuer or ""
        self._by_hand = _by_hand(settings)
        self._get = get
        self._clock = clock
        self._renew_at = self._looked_at = 0.0
        self._flight: asyncio.Task[Found] | None = None
        self._failed: tuple[Found, float] | None = None  # and when
        self.known: Metadata | None = None
        self._urls: tuple[str, ...] = ()
        if "token_endpoint" in self._by_hand:
            self.known = Metadata(self._issuer, **self._by_hand)
            self._renew_at = float("inf")
        else:
            self._urls = well_known_urls(self._issuer)

    async def metadata(self) -> Found:
        """Return the metadata, or why there is none. One who stops waiting does not stop the others' flight."""
        now = self._clock()
        if self.known is not None and now < self._renew_at:
            return self.known
        if self._failed is not None and self._failed[1] <= now < self._failed[1] + PAUSE:
            return self.known or self._failed[0]
        self._flight = flight = self._flight or asyncio.create_task(self._fly())
        if self.known is not None:
            return self.known
        return await asyncio.shield(flight)

    def doubt(self) -> None:
        """Take note that an endpoint failed: it may have moved."""
        if self._urls:
            self._renew_at = min(self._renew_at, self._looked_at + RETRY)

    async def close(self) -> None:
        """Wait for the flight, which ends at once when the connections are closed before."""
        if self._flight is not None:
            await asyncio.wait([self._flight])

    async def _fly(self) -> Found:
        try:
            found = await self._look()
            if isinstance(found, Metadata):
                self.known = found
            now = self._looked_at = self._clock()
            self._failed = None if isinstance(found, Metadata) else (found, now)
            self._renew_at = now + (LIFE if isinstance(found, Metadata) else RETRY if self.known else 0.0)
            return found
        finally:
            self._flight = None

    async def _look(self) -> Found:
        """Try each place; the next one only where this one answers, but not with the metadata."""
        found: Found = Invalid("metadata")
        for url in self._urls:
            reply = await self._get(url)
            found = reply if isinstance(reply, Unavailable | Invalid) else self._read(reply)
            if not isinstance(found, Invalid):
                break
        return found

    def _read(self, answer: Answer) -> Found:
        trouble = judge_status(answer.status, answer.headers, self._clock())
        if trouble is not None:
            return trouble
        try:
            return replace(read_metadata(read_object(answer.body), self._issuer), **self._by_hand)
        except MetadataError as error:
            return Invalid(f"metadata_{error.member}")
        except DocumentError:
            return Invalid("metadata")


def _by_hand(settings: ProviderSettings) -> dict[str, Any]:
    endpoints = {name: url for name in BY_HAND if (url := getattr(settings, name)) is not None}
    for name, url in endpoints.items():
        if not is_endpoint(url):
            raise MetadataError(name)
    return endpoints
