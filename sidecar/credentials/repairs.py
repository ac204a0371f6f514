"""What a failover may have lost: chains that this process stored a moment ago, and sessions that it began or ended.

A store with replicas can answer for a write and lose it with its master; only who made the write knows of it then, and
another instance would spend the refresh token that the store shows again, or serve the next user of a session's id with
the former one's. So while the store is shaken, or says that
anything may have changed, what was written within the last minute is compared, and written again where it is missing:
well within the time for which who takes a lock waits (`renewal.HEIR_WAITS`). By compare-and-set, by the chain's place
in time and the record's version: nothing newer is overwritten, no session comes back that is gone or was signed in
anew. A chain that another process has renewed since is left to that one. Asks no provider.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sidecar.credentials.sight import live_chain
from sidecar.errors import STORE_FAULTS

if TYPE_CHECKING:
    from sidecar.credentials.records import Loaded
    from sidecar.credentials.session_record import Chain, SessionRecord
    from sidecar.credentials.sight import Kit, Trip

KEPT, MOST = 60.0, 1000
"""For how many seconds a write is remembered, and how many of either kind at most."""
PULSE = 1.0
"""Seconds between two looks whether the store is shaken."""
ATTEMPTS = 5
FIRST = 1
"""The generation of a chain as its sign-in made it."""
AT_ONCE = 8
"""Records looked at together: a thousand of them, one after the other, outlast the wait of who takes a lock."""
_log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """The chains of a session that the store has taken, by provider, and when (seconds since the epoch).

    `others`: have written since.
    """

    chains: dict[str, tuple[Trip, Chain]]
    at: float
    others: bool = False


class SignedIn(NamedTuple):
    """The record of a sign-in as the store has taken it, its version, those of the record it replaced, and when."""

    record: SessionRecord
    version: int
    replaced: int
    former: frozenset[int]
    at: float


class Ended(NamedTuple):
    """The version of a session's record that was deleted, its sign-ins, and when. `written`: it has been since."""

    version: int
    sign_ins: frozenset[int]
    at: float
    written: bool = False


T = TypeVar("T", Stored, SignedIn, Ended)


class Repairs:
    """The writes of one broker that may have to be made again."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._fails_over = kit.records.store.shared and kit.records.store.home is None
        self._stored: dict[str, Stored] = {}  # by record, the oldest in front
        self._signed_in: dict[str, SignedIn] = {}
        self._ended: dict[str, Ended] = {}
        self._doubted = False

    def stored(self, trip: Trip, chain: Chain) -> None:
        """Take note that the store has a user's chain."""
        before = self._stored.pop(trip.name, None)
        chains = {**(before.chains if before else {}), trip.provider: (trip, chain)}
        self._stored[trip.name] = Stored(chains, self._kit.clock())
        _tidy(self._stored, self._kit.clock())

    def signed_in(self, name: str, record: SessionRecord, version: int, over: Loaded) -> None:
        """Take note that the store has a sign-in, as which version of its record, and over what.

        One in whose place there was nothing could be lost, but not be taken for another. A file does not fail over.
        """
        self._signed_in.pop(name, None)
        self._written(name)
        if self._fails_over and over.record is not None and over.version is not None:
            former = _sign_ins(over.record)
            self._signed_in[name] = SignedIn(record, version, over.version, former, self._kit.clock())
            _tidy(self._signed_in, self._kit.clock())

    def ended(self, name: str, version: int, record: SessionRecord | None) -> None:
        """Take note that a session was deleted, and which version of its record."""
        self._stored.pop(name, None)
        self._signed_in.pop(name, None)
        self._ended.pop(name, None)
        self._ended[name] = Ended(version, _sign_ins(record), self._kit.clock())
        _tidy(self._ended, self._kit.clock())

    def changed(self, name: str) -> None:
        """Hear that another process changed a record, or (empty) that any may have changed."""
        self._doubted |= not name
        if name in self._stored:  # with what is newer, or by making a sign-in again that was lost with our renewal
            self._stored[name] = self._stored[name]._replace(others=True)
        self._written(name)

    def _written(self, name: str) -> None:
        if name in self._ended:  # by a sign-in, which may be lost as well, or by making again what we had deleted
            self._ended[name] = self._ended[name]._replace(written=True)

    async def watch(self) -> None:
        """Look after what was written whenever the store may have lost some of it, for ever."""
        while True:
            await asyncio.sleep(PULSE)
            self._tidy()
            if self._doubted or self._kit.records.store.shaken:
                await self.look()

    async def look(self) -> None:
        """Compare what was written a moment ago with what the store has; where it is away, at the next look."""
        self._doubted = False
        self._tidy()
        names = list({**self._ended, **self._signed_in, **self._stored})
        for begun in range(0, len(names), AT_ONCE):
            looks = await asyncio.gather(*map(self._look_at, names[begun : begun + AT_ONCE]), return_exceptions=True)
            for failure in filter(None, looks):
                if not isinstance(failure, STORE_FAULTS):
                    raise failure
                self._doubted = True
            if self._doubted:
                return

    def _tidy(self) -> None:
        now = self._kit.clock()
        _tidy(self._stored, now)
        _tidy(self._signed_in, now)
        _tidy(self._ended, now)

    async def _look_at(self, name: str) -> None:
        if (ended := self._ended.get(name)) is not None:
            await self._end_again(name, ended)
        if (signed_in := self._signed_in.get(name)) is not None:
            await self._sign_in_again(name, signed_in)
        if (stored := self._stored.get(name)) is not None:
            for trip, chain in stored.chains.values():
                await self._store_again(trip, chain, stored.others)

    async def _store_again(self, trip: Trip, chain: Chain, others: bool) -> None:
        records, now = self._kit.records, self._kit.clock()
        for attempt in range(ATTEMPTS):
            over = await records.load(trip.name)
            theirs = live_chain(trip, over, now)
            if over.record is None or theirs is None or not chain.step.passes(theirs.step):
                return
            if others and theirs.generation > FIRST:  # renewed by another since, which may have spent ours
                return
            # Nobody has used the session for that: its time of last use stays.
            record = over.record.with_chain(trip.provider, chain, over.record.last_used)
            if await records.save(trip.name, record, over, now, attempt):
                self._repaired(trip.name)
                return

    async def _sign_in_again(self, name: str, signed_in: SignedIn) -> None:
        """Where the store shows the session that was there before. Who finds none has to sign in again."""
        over = await self._kit.records.load(name)
        shown, record, now = _sign_ins(over.record), signed_in.record, self._kit.clock()
        if over.record is None or over.version is None or not shown <= signed_in.former:
            return
        # Of a later version is what was written since over the former session, which was taken for this one; or what is
        # left of the sign-in, where its own chain has ended.
        if over.version > signed_in.replaced and shown <= _sign_ins(record):
            return
        version = max(signed_in.version, over.version + 1)
        if self._signed_in.get(name) is signed_in and await self._kit.records.save(
            name, record, over, now, version=version
        ):
            self._repaired(name)
            self._kit.memory.drop(name)

    async def _end_again(self, name: str, ended: Ended) -> None:
        over = await self._kit.records.load(name)
        if over.version is None:
            return
        older = over.version <= ended.version and not ended.written
        if not older and (over.record is None or not _sign_ins(over.record) <= ended.sign_ins):
            return
        if self._ended.get(name) is ended and await self._kit.records.delete(name, over):
            self._repaired(name)
            self._kit.memory.bury(name, self._kit.clock())

    def _repaired(self, name: str) -> None:
        self._kit.counts.repairs += 1
        _log.error("store_went_back", extra={"record": name[:20]})


def _sign_ins(record: SessionRecord | None) -> frozenset[int]:
    return frozenset(record.sign_ins.values()) if record else frozenset()


def _tidy(kept: dict[str, T], now: float) -> None:
    """Forget what was written long ago: it stands in front."""
    while kept:
        name, oldest = next(iter(kept.items()))
        if len(kept) <= MOST and oldest.at <= now < oldest.at + KEPT:
            return
        del kept[name]
