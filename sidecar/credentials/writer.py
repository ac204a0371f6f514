"""Storing a chain that a token request has changed, so that no refresh token is lost and no newer one overwritten.

Writes by compare-and-set and merges with what others wrote beside the chain. What lost the race is discarded: the chain
was renewed, replaced by a sign-in, or deleted (then the orphaned refresh token is revoked, RFC 7009). If the store does
not take a rotated refresh token, it is kept and stored as soon as the store allows, with the chain's lock held, so that
no instance spends the old one. Asks for no token.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from sidecar.credentials.entry import Peak
from sidecar.credentials.records import version_over
from sidecar.credentials.repairs import Repairs
from sidecar.credentials.session_record import Chain, SessionRecord
from sidecar.credentials.sight import APP_PATIENCE, Kit, Sight, Trip, live_chain, overtaken
from sidecar.errors import STORE_FAULTS, Refusal, StoreBrokenError, StoreUnavailableError

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from sidecar.credentials.outage import Outages
    from sidecar.credentials.records import Loaded

WRITES = 5
FIRST_RETRY, LONGEST_RETRY = 0.1, 1.0
"""Seconds. Well below the time for which who takes our lock over waits for us: `renewal.HEIR_WAITS`."""
_log = logging.getLogger(__name__)


class Writer:
    """Writes to one store."""

    def __init__(self, kit: Kit, outages: Outages) -> None:
        self._kit = kit
        self._outages = outages
        self.repairs = Repairs(kit)
        outages.repair = self.repairs.look
        self.kept: dict[tuple[str, str], asyncio.Task[None]] = {}  # by record and provider

    async def store(self, trip: Trip, sight: Sight, chain: Chain, lock: AsyncExitStack) -> bool:
        """Store `chain` in place of the one of `sight`; False where another has taken its place.

        Raises what the store raises, and then keeps on trying by itself, with `lock`; `Refusal` (login_required) where
        the session is gone. An application's token is not worth that: it is used unstored. With `on_outage: local` so
        is a user's, and the store is told later (`outage`).
        """
        if not trip.bound.for_user:
            return await self._offer(trip, sight, chain)
        try:
            over = sight.loaded
            if over.version is None:  # renewed without the store, which may be back, and the session ended meanwhile
                over = await self._kit.records.load(trip.name)
                if await self._overtaken(trip, sight, over, chain):
                    return False
            return await self._write(trip, sight, over, chain)
        except STORE_FAULTS:
            if self._outages.allowed and await self._outages.confirmed():
                self._outages.keep(trip, sight, chain)
                return True
            self._keep(trip, sight, chain, lock.pop_all())
            raise

    async def _offer(self, trip: Trip, sight: Sight, chain: Chain) -> bool:
        """Store an application's token, where the store takes it soon."""
        with suppress(TimeoutError, *STORE_FAULTS):
            async with asyncio.timeout(APP_PATIENCE):
                return await self._write(trip, sight, sight.loaded, chain)
        return True

    async def _write(self, trip: Trip, sight: Sight, over: Loaded, chain: Chain) -> bool:
        for attempt in range(WRITES):
            now = self._kit.clock()
            record = over.record or SessionRecord(now, now)
            record = record.with_chain(trip.provider, chain, self._used_at(trip, now))
            version = version_over(over.version, now, attempt)
            if await self._kit.records.save(trip.name, record, over, now, version=version):
                whole = chain if self._kit.local else None
                peak = Peak(trip.provider, chain.step, chain.refresh_token, own=True, chain=whole)
                self._kit.memory.climb(trip.name, sight.mark, peak, version)
                if trip.bound.for_user:
                    self.repairs.stored(trip, chain)
                return True
            over = await self._kit.records.load(trip.name)
            if await self._overtaken(trip, sight, over, chain):
                return False
        raise StoreUnavailableError("too many others write this record")

    def _used_at(self, trip: Trip, now: float) -> float:
        """Return when the session was last used: now, unless nobody asked for the renewal."""
        if trip.ahead is None:
            return now
        entry = self._kit.memory.known(trip.name)
        return entry.used_at if entry else 0.0

    async def _overtaken(self, trip: Trip, sight: Sight, over: Loaded, ours: Chain) -> bool:
        """Say whether the chain that was spent is no longer the session's; if the session is gone, revoke ours."""
        if not trip.bound.for_user:
            return over.record is not None
        if over.record is None and over.version is not None:  # by a key that others have already: ours is not lost yet
            raise StoreBrokenError("the record was written with another key")
        theirs = live_chain(trip, over, self._kit.clock())
        if theirs is not None and not overtaken(trip, sight, theirs):
            return False
        self._kit.counts.discarded += 1
        if theirs is not None:
            return True
        self._kit.memory.forget_peak(trip.name, trip.provider)
        await self._kit.orphans.end(trip.bound.server, ours)
        raise Refusal("login_required")

    def _keep(self, trip: Trip, sight: Sight, chain: Chain, lock: AsyncExitStack) -> None:
        _log.error("rotated_refresh_token_not_stored", extra={"record": trip.name[:20]})
        place = (trip.name, trip.provider)
        task = asyncio.get_running_loop().create_task(self._insist(trip, sight, chain, lock))
        self.kept[place] = task
        task.add_done_callback(lambda done: self._done(place, done))

    async def _insist(self, trip: Trip, sight: Sight, chain: Chain, lock: AsyncExitStack) -> None:
        pause = FIRST_RETRY
        async with lock:
            while True:
                await self._kit.sleep(pause)
                pause = min(2 * pause, LONGEST_RETRY)
                self._kit.counts.store_write_retries += 1
                try:
                    over = await self._kit.records.load(trip.name)
                    if not await self._overtaken(trip, sight, over, chain):
                        await self._write(trip, sight, over, chain)
                except STORE_FAULTS:
                    continue
                except Refusal:
                    return  # the session was deleted meanwhile
                return

    def _done(self, place: tuple[str, str], task: asyncio.Task[None]) -> None:
        del self.kept[place]
        self._kit.memory.drop(place[0])
        if task.cancelled() or task.exception() is not None:
            _log.error("rotated_refresh_token_lost", extra={"record": place[0][:20]})
