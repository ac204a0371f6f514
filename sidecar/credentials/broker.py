"""The broker: a credential for a key, at once from memory where it is fresh, else by one flight for all who ask.

`ready` is the hot path: one look-up and one comparison. `obtain` is for everything else. The broker decides who waits
for what; `lifecycle` decides what is done, `renewal` does it. It never hands out an expired or a rejected token, nor
one of another key. This is also where the parts of the package are put together.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from sidecar.calling_off import call_off
from sidecar.credentials.attended import Attended, Open
from sidecar.credentials.counts import Counts, figures
from sidecar.credentials.flights import Flights
from sidecar.credentials.key_state import KeyState, state_at, state_of
from sidecar.credentials.memory import Memory
from sidecar.credentials.outage import Outages
from sidecar.credentials.records import Records, app_name
from sidecar.credentials.registry import AuthorizationServer, Registry
from sidecar.credentials.renewal import Renewals
from sidecar.credentials.sessions import Sessions
from sidecar.credentials.sight import REST, Kit, Reader, Trip, rest_a_while
from sidecar.credentials.sign_ins import SignIns
from sidecar.credentials.suspicions import Suspicions
from sidecar.credentials.tending import Tending
from sidecar.credentials.writer import Writer
from sidecar.errors import STORE_FAULTS, LockHeldError, Refusal
from sidecar.model import APPLICATION, TokenKey, TokenSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sidecar.credentials.ahead import Due
    from sidecar.credentials.entry import Credential
    from sidecar.credentials.repeats import Hold
    from sidecar.credentials.vault import Vault
    from sidecar.stores.contract import Store

ATTEMPTS = 3
HOUSEKEEPING_EVERY = 60.0
HOLD = 1.0
"""Seconds for which a failure is repeated without asking anybody. The longer back-off is the provider's own."""
DOUBT_REST = 1.0
_BUSY = "The session's tokens are being renewed, and that takes long."
_TO_RETRY = frozenset({"provider_unavailable", "provider_invalid", "store_unavailable"})


def _jitter() -> float:
    return random.uniform(1.0, 1.25)  # noqa: S311 - spreads renewals, hides nothing


class StillRejectedError(Exception):
    """The token was renewed for a rejection a moment ago and is rejected again: the upstream's answer is passed on."""


class Broker:
    """Credentials for the token specs of the configuration, kept in `store`.

    `clock` gives seconds since the epoch; `jitter` stretches early windows, 1 to 1.25; `sleep` waits; `local` is what
    `store.on_outage` says. `specs` is by fingerprint, `providers` by name. Starts no I/O; must be made
    and used on one event loop.
    """

    def __init__(
        self,
        specs: Mapping[str, TokenSpec],
        providers: Mapping[str, AuthorizationServer],
        store: Store,
        vault: Vault,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = _jitter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        local: bool = False,
    ) -> None:
        self.counts = Counts()
        self._clock = clock
        self._registry = Registry(specs, providers)
        self._memory = Memory(folding=not local)  # whole chains are not folded
        self._hot = self._memory.hot
        self._suspicions = Suspicions()
        self._records = Records(store, vault, self.counts)
        self._memory.named = self._records.named
        self._records.seen = self._memory.seen
        kit = Kit(self._records, self._memory, self._suspicions, self.counts, clock, jitter, sleep, local)
        self.outages = Outages(kit, store, allowed=local)
        self._writer = Writer(kit, self.outages)
        self.tending = Tending(kit, self._registry, self._renew_ahead)
        self._memory.woken, self._memory.folded = self.tending.woken, self.tending.folded
        self._renewals = Renewals(kit, Reader(kit, self.tending.plan), self._writer, self.outages)
        self._flights: Flights[TokenKey, Credential] = Flights()
        self._standing: list[asyncio.Task[None]] = []  # what goes on for as long as the broker
        self._closed = False
        self.sessions = Sessions(self._registry, self._records, self._memory, clock, local=local)
        self.sessions.ended = self._writer.repairs.ended
        self.sessions.signed_in = self._writer.repairs.signed_in
        self._attended = Attended(self.sessions.ends_at)
        self._memory.changed = self._attended.changed
        self.sign_ins = SignIns(self.sessions, self._records, clock)
        kit.orphans.succeeded = self.sign_ins.succeeded
        store.watch(self._changed)

    def ready(self, key: TokenKey, now: float) -> Credential | None:
        """Return the fresh credential at hand for `key`, if there is one. `now` is seconds since the epoch."""
        credential = self._hot.get(key) or self._memory.wake(key)
        if credential is not None and credential.true_from <= now < credential.fresh_until:
            credential.used_at = now
            return credential
        return None

    async def obtain(self, key: TokenKey, rejected: Credential | None = None) -> Credential:
        """Return a usable credential for `key`, other than `rejected` where the upstream refused that one.

        Waits for a token request only where nothing usable is held. Raises `Refusal` (login_required,
        provider_refused, provider_invalid, provider_unavailable, store_unavailable, overloaded); `StillRejectedError`
        where a renewal has just not helped.
        """
        trip = await self._trip(key)
        if rejected is not None:
            self._reject(trip, rejected)
        credential = self._at_hand(trip)
        if credential is None:
            credential = await self._await_flight(trip)
        now = self._clock()
        if not credential.fresh(now):
            self._renew_in_background(trip)
        self._memory.used(credential, now)
        return credential

    def attend(self, key: TokenKey, opened: Open) -> None:
        """Close a connection that was opened with the credential of `key` when the session ends."""
        name = None if key.identity == APPLICATION else self._records.named(key.identity)
        if name is not None:
            self._attended.add(name, opened)

    def accepted(self, credential: Credential) -> None:
        """Take note that an upstream took a credential that is `suspect`."""
        credential.suspect = False
        self._suspicions.accept(credential.key, credential.step)

    def peek(self, key: TokenKey, now: float) -> KeyState:
        """Return what is held for `key` in this process; never the token."""
        credential = self._hot.get(key) or self._memory.wake(key)
        if credential is None:
            if key in self._flights:
                return KeyState("renewing")
            return KeyState("none" if self._suspicions.rejected(key) is None else "rejected")
        return KeyState(
            "renewing" if key in self._flights else state_of(credential, now),
            max(credential.usable_until - now, 0.0),
            credential.step.generation,
        )

    def states(self) -> Counter[str]:
        """Return how many credentials there are by state: fresh, stale, expired; and `renewing`, flights under way."""
        now = self._clock()
        states: Counter[str] = Counter(state_at(*times, now) for times in self._memory.tokens())
        states["renewing"] = len(self._flights.tasks())
        return states

    def figures(self) -> dict[str, dict[str, float]]:
        """Return the numbers that operators see: `tokens` by state, `renewals` by cause, `events` by kind, `now`."""
        unstored = len(self._writer.kept) + len(self.outages.unstored)
        return figures(self.counts, self.states(), self._memory.sessions(), unstored)

    def valid_for(self, now: float) -> float | None:
        """Return the seconds after which the first valid token in use expires without the provider; None: no token."""
        left = [usable_until - now for _, usable_until in self._memory.tokens() if now < usable_until]
        return min(left, default=None)

    def reconfigure(self, specs: Mapping[str, TokenSpec], providers: Mapping[str, AuthorizationServer]) -> None:
        """Take a new configuration. What is held stays; refusals are not repeated any more."""
        self._registry.reconfigure(specs, providers)
        self._memory.repeats.release_all()

    async def close(self, deadline: float) -> None:
        """Wait up to `deadline` seconds for flights and unstored refresh tokens, then call the rest off."""
        self._closed = True
        await call_off(self._standing)
        with suppress(TimeoutError, Refusal):
            async with asyncio.timeout(deadline):
                while work := self._work():
                    await asyncio.wait(work)
                await self.outages.end()
                await self.sessions.settle()
                await self.sessions.flush_last_used()
        await call_off(self._work())

    # -- one key --------------------------------------------------------------------------------------------------

    async def _trip(self, key: TokenKey) -> Trip:
        bound = self._registry.bound(key.fingerprint)
        if self._closed:
            raise Refusal("overloaded", retry_after=1)
        if bound is None or not key.identity or bound.for_user == (key.identity == APPLICATION):
            raise Refusal("internal")
        if not self._standing:
            self._standing = [
                asyncio.create_task(work())
                for work in (
                    self._keep_house,
                    self.tending.run,
                    self.outages.watch,
                    self._attended.run,
                    self._writer.repairs.watch,
                )
            ]
        if not bound.for_user:
            return Trip(key, bound, app_name(key.fingerprint))
        try:
            return Trip(key, bound, await self._records.name(key.identity))
        except STORE_FAULTS:
            raise Refusal("store_unavailable", retry_after=1) from None

    def _reject(self, trip: Trip, rejected: Credential) -> None:
        """Believe the upstream, so that `rejected` is not used again, or raise `StillRejectedError`."""
        newest = self._memory.last_resort(trip.name, trip.key.fingerprint)
        if newest is not None and not rejected.step.reaches(newest.step):
            return
        if not self._suspicions.reject(trip.key, rejected.step, self._clock()):
            self.counts.still_rejected += 1
            raise StillRejectedError
        self._hot.pop(trip.key, None)

    def _at_hand(self, trip: Trip) -> Credential | None:
        """Return what is held, where it is usable and the record is not known to have changed."""
        credential = self._memory.held(trip.name, trip.key.fingerprint)
        return credential if credential is not None and self._good(credential) else None

    def _good(self, credential: Credential) -> bool:
        return credential.usable(self._clock()) and not self._suspicions.rejects(credential.key, credential.step)

    async def _await_flight(self, trip: Trip) -> Credential:
        self._repeat_refusal(trip)
        self.counts.joined += trip.key in self._flights
        with self._renewals.hurry.waiting((trip.name, trip.provider)):
            for _ in range(ATTEMPTS):
                credential = await self._flights.join(trip.key, partial(self._fly, trip))
                if self._good(credential):  # no longer, where it was rejected or the caller came late to the answer
                    return credential
        raise Refusal("provider_invalid", retry_after=HOLD)

    def _renew_in_background(self, trip: Trip) -> None:
        if not self._closed:
            self._flights.start(trip.key, partial(self._fly, trip._replace(eager=True)))

    async def _renew_ahead(self, due: Due) -> None:
        trip = (await self._trip(due.key))._replace(eager=True, ahead=due.step)
        await self._flights.join(due.key, partial(self._fly, trip))

    async def _fly(self, trip: Trip) -> Credential:
        try:
            return await self._renewals.fetch(trip)
        except LockHeldError:
            refusal, rest = Refusal("provider_unavailable", _BUSY, retry_after=1), DOUBT_REST
        except STORE_FAULTS:
            return self._fall_back(trip, Refusal("store_unavailable", retry_after=1), DOUBT_REST)
        except Refusal as raised:
            refusal, rest = raised, REST
        return await self._otherwise(trip, refusal, rest)

    async def _otherwise(self, trip: Trip, refusal: Refusal, rest: float) -> Credential:
        """Do without what a flight was for: where what is held came into doubt since it took off, after another look.

        It may have waited long: somebody else may have signed in meanwhile, or nobody be signed in any more.
        """
        with suppress(*STORE_FAULTS):
            try:
                if self._memory.in_doubt(trip.name) and (seen := await self._renewals.look_again(trip, rest)):
                    return seen
            except Refusal as gone:
                refusal = gone
        return self._fall_back(trip, refusal, rest)

    def _fall_back(self, trip: Trip, refusal: Refusal, rest: float) -> Credential:
        """Return the valid token that is held although it could not be renewed; else remember and raise the refusal."""
        now = self._clock()
        credential = self._memory.last_resort(trip.name, trip.key.fingerprint)
        if refusal.name in _TO_RETRY and credential is not None and self._good(credential):
            rest_a_while(credential, now, rest)
            self._hot[trip.key] = credential
            return credential
        pause = HOLD if refusal.name in _TO_RETRY else max(HOLD, refusal.retry_after or 0.0)
        self._memory.hold(trip.name, trip.key.fingerprint, refusal, now, pause)
        retry_after = refusal.retry_after if refusal.name in _TO_RETRY else None
        raise Refusal(refusal.name, refusal.detail, retry_after=retry_after) from None

    def _repeat_refusal(self, trip: Trip) -> None:
        now = self._clock()
        if self._memory.repeats.is_unknown(trip.name, now):
            raise Refusal("login_required")
        hold = self._memory.repeats.held_back(trip.name, trip.key.fingerprint, now)
        if hold is not None:
            raise _again(hold)

    # -- the process ----------------------------------------------------------------------------------------------

    def _changed(self, name: str) -> None:
        """Hear from the store that another process wrote a record, or (empty) that any may have changed."""
        self._records.changed(name)
        self._writer.repairs.changed(name)
        if name:
            self._memory.disown(name)
        else:
            self._memory.doubt()

    def _work(self) -> list[asyncio.Task[Any]]:
        return [
            *self._flights.tasks(),
            *self.tending.tasks(),
            *self._renewals.late.values(),
            *self._writer.kept.values(),
        ]

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_EVERY)
            with suppress(Refusal):  # the store is away: next time
                await self.sessions.flush_last_used()
            self._memory.sweep(self._clock())
            self._suspicions.sweep(self._clock())
            self._attended.sweep(self._clock())


def _again(hold: Hold) -> Refusal:
    return Refusal(hold.refusal, hold.detail, retry_after=HOLD if hold.refusal in _TO_RETRY else None)
