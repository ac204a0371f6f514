"""What an instance may do with `store.on_outage: local` while the store is away, and how the store learns of it later.

Decides who may spend a refresh token without the store's lock: the instance that obtained it (at the sign-in or at the
last renewal) and has heard of no change since. While the store is away for all, each refresh token has at most one such
instance, so none is spent twice. What was obtained meanwhile is kept here and written when the store is back; for
`GRACE` seconds after that nobody spends a refresh token that another instance obtained, lest it was spent meanwhile.

It cannot know whether the store is away for others too. An instance that is cut off alone and one that is not may both
spend a refresh token: `docs/sessions.md` says what that means.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from sidecar.credentials.entry import Peak
from sidecar.credentials.records import LOCK_WAIT
from sidecar.credentials.session_record import SessionRecord
from sidecar.credentials.sight import live_chain
from sidecar.errors import STORE_FAULTS, StoreUnavailableError
from sidecar.stores.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from sidecar.credentials.session_record import Chain
    from sidecar.credentials.sight import Kit, Sight, Trip
    from sidecar.stores.contract import Store

GRACE = 10.0
"""Seconds after the store's return for which only an instance's own refresh tokens are spent."""
PULSE, PROBE = 1.0, 2.0
"""Seconds between two looks whether the store is there, and for which a look waits."""
ATTEMPTS = 5
Place = tuple[str, str]
_log = logging.getLogger(__name__)


class Unstored(NamedTuple):
    """A chain that the store does not have yet."""

    trip: Trip
    chain: Chain


async def _nothing() -> None: ...


class Outages:
    """When the store was away, and what it has to be told. `allowed`: whether `store.on_outage` is `local`.

    `repair` is set from outside: makes again what a failover has lost, where the store can be asked.
    """

    def __init__(self, kit: Kit, store: Store, *, allowed: bool) -> None:
        self.allowed = allowed
        self.unstored: dict[Place, Unstored] = {}
        self.repair: Callable[[], Awaitable[None]] = _nothing
        self._kit = kit
        self._store = store
        self._turns = Turns()
        self._away = False
        self._back_at = float("-inf")

    async def confirmed(self) -> bool:
        """Say whether the store cannot be written at all, rather than busy with this very record."""
        probe = self._store.lock(f"probe:{secrets.token_hex(8)}", lease=PROBE, wait=0.0)
        try:
            async with asyncio.timeout(PROBE), probe:
                return False
        except (StoreUnavailableError, TimeoutError):
            self._away = True
            return True

    def may_spend(self, trip: Trip) -> bool:
        """Say whether the refresh token of a chain that the store has just shown may be spent by this instance."""
        # Where we have not noticed the store's return yet, others had no time to tell it anything either.
        recently = self._away or self._back_at <= self._kit.clock() < self._back_at + GRACE
        if not (self.allowed and recently and trip.bound.for_user):
            return True
        entry = self._kit.memory.known(trip.name)
        peak = entry.peak(trip.provider) if entry else None
        return bool(peak and peak.own)

    def turn(self, place: Place) -> AbstractAsyncContextManager[None]:
        """Keep two flights of this process from spending one chain's refresh token at once."""
        return self._turns.turn("\0".join(place), LOCK_WAIT)

    def keep(self, trip: Trip, sight: Sight, chain: Chain) -> None:
        """Use a chain from now on that only this process knows, and store it as soon as the store is back."""
        self.unstored[trip.name, trip.provider] = Unstored(trip, chain)
        peak = Peak(trip.provider, chain.step, chain.refresh_token, own=True, chain=chain)
        self._kit.memory.climb(trip.name, sight.mark, peak, sight.loaded.version or 0)
        _log.warning("renewed_without_store", extra={"record": trip.name[:20], "provider": trip.provider})

    async def watch(self) -> None:
        """Look for the store for ever, and tell it what it has missed; where that is of no use, return at once."""
        while self.allowed:
            await asyncio.sleep(PULSE)
            await self.look()

    async def look(self) -> None:
        """See whether the store is there; if so, store what is kept."""
        try:
            if self._away and await self.confirmed():
                return
            async with asyncio.timeout(PROBE):
                await self._store.ping()
        except (*STORE_FAULTS, TimeoutError):
            self._away = True
            return
        if self._away:
            self._away, self._back_at = False, self._kit.clock()
        with suppress(*STORE_FAULTS):  # away again: at the next look
            await self.catch_up()

    async def catch_up(self) -> None:
        """Store what is kept, one after the other. Raises what the store raises; the rest stays kept."""
        if self.unstored:  # a sign-in that was lost would look as if another had taken its place
            await self.repair()
        for place, kept in list(self.unstored.items()):
            await self._store_one(kept)
            if self.unstored.get(place) is kept:
                del self.unstored[place]

    async def end(self) -> None:
        """Store what is kept, or say how much is lost."""
        with suppress(*STORE_FAULTS):
            await self.catch_up()
        if self.unstored:
            _log.error("rotated_refresh_tokens_lost", extra={"count": len(self.unstored)})

    async def _store_one(self, kept: Unstored) -> None:
        trip, records, now = kept.trip, self._kit.records, self._kit.clock()
        for attempt in range(ATTEMPTS):
            over = await records.load(trip.name)
            theirs = live_chain(trip, over, now)
            if theirs is None:
                self._forget(kept, gone=over.record is None)
                await self._kit.orphans.end(trip.bound.server, kept.chain)
                return
            if theirs.step == kept.chain.step and theirs.refresh_token == kept.chain.refresh_token:
                return  # it had been written, and the answer was lost
            if not kept.chain.step.passes(theirs.step):
                self._kit.counts.lost_races += 1
                self._kit.memory.forget_peak(trip.name, trip.provider)
                return
            record = over.record or SessionRecord(now, now)
            if await records.save(trip.name, record.with_chain(trip.provider, kept.chain, now), over, now, attempt):
                self._kit.counts.repairs += 1
                return
        raise StoreUnavailableError("too many others write this record")

    def _forget(self, kept: Unstored, *, gone: bool) -> None:
        """Use no more what was obtained for a session that was ended meanwhile. `gone`: none is in its place."""
        self._kit.counts.discarded += 1
        if gone:
            self._kit.memory.bury(kept.trip.name, self._kit.clock())
        else:
            self._kit.memory.forget_peak(kept.trip.name, kept.trip.provider)
