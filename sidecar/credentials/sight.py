"""Reading: what the store has for one key, judged, and the credential that is made of it.

Reads through `records`, judges by `lifecycle`, puts credentials into `memory`. Changes nothing in the store and asks no
provider. What was read may be used only if the memory has not heard of a change since the reading began (`epoch`): so
a session that is deleted meanwhile does not come back.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from sidecar.credentials.entry import Credential, Entry, Mark, Peak
from sidecar.credentials.lifecycle import Held, Plan, dead_at, plan, stale_at, true_from
from sidecar.credentials.orphans import Orphans
from sidecar.credentials.records import Loaded, Records, new_sign_in
from sidecar.credentials.session_record import Chain, Step
from sidecar.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.credentials.counts import Counts
    from sidecar.credentials.memory import Memory
    from sidecar.credentials.registry import Bound
    from sidecar.credentials.session_record import Bought
    from sidecar.credentials.suspicions import Suspicions
    from sidecar.model import Token, TokenKey

REST = 5.0
"""Seconds for which a valid token is used without trying to renew it, after a renewal failed."""
APP_PATIENCE = 1.0
"""Seconds that an application's token waits for the store: it can be had without."""
LOOKS = 4
"""Readings of a session that is signed out and in meanwhile, before it is taken for what was read."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kit:
    """What the parts of one broker share.

    `clock` gives seconds since the epoch, `jitter` stretches early windows (1 to 1.25), `sleep` waits for seconds.
    """

    records: Records
    memory: Memory
    suspicions: Suspicions
    counts: Counts
    clock: Callable[[], float]
    jitter: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    local: bool = False  # `store.on_outage`: whole chains are kept at hand
    orphans: Orphans = field(default_factory=Orphans)


class Trip(NamedTuple):
    """What a flight is for. `eager`: the token at hand is stale, so it is to be renewed though it could be used.

    `ahead`: so is one that is not stale yet, up to this step.
    """

    key: TokenKey
    bound: Bound
    name: str  # of the record
    eager: bool = False
    ahead: Step | None = None

    @property
    def provider(self) -> str:
        """Return the provider whose chain it is."""
        return self.bound.spec.provider


@dataclass(frozen=True, slots=True)
class Sight:
    """What was read, and what it means for a trip."""

    mark: Mark
    ends_at: float
    loaded: Loaded
    chain: Chain | None
    bought: Bought | None
    held: Held
    plan: Plan
    rejected: bool

    def answers(self, eager: bool) -> bool:
        """Say whether the trip ends with the token that was read."""
        return self.plan is Plan.USE or (self.plan is Plan.USE_AND_RENEW and not eager)


class Reader:
    """Sights of one store."""

    def __init__(self, kit: Kit, planned: Callable[[Trip, Credential, Token], None]) -> None:
        self._kit = kit
        self._planned = planned  # hears of every credential that is at hand

    async def look(self, trip: Trip) -> Sight:
        """Read and plan. An application's record is taken for missing where the store is away."""
        for _ in range(LOOKS):
            sight = await self._look(trip)
            if sight.plan is not Plan.NEED_LOGIN or not self.outdated(trip, sight):
                break  # else signed in while the answer was on its way, perhaps
        return sight

    def outdated(self, trip: Trip, sight: Sight) -> bool:
        """Say whether the record may have changed since it was read."""
        entry = self._kit.memory.known(trip.name)
        return entry is None or entry.mark != sight.mark

    async def _look(self, trip: Trip) -> Sight:
        before = self._kit.memory.entry(trip.name, self._kit.clock())
        mark, known = before.mark, before.peak(trip.provider)
        loaded = await self._load(trip)
        entry = self._kit.memory.marked(trip.name, mark) or Entry(
            mark.birth
        )  # forgotten meanwhile: nothing will be kept
        chain = live_chain(trip, loaded, self._kit.clock())
        if loaded.record is not None and chain is not None:
            chain = self._newest(trip, entry, loaded, chain, known)
            self._climb(trip, entry, chain, loaded.version or 0)
            if trip.bound.for_user:
                entry.last_used, entry.ends_at = loaded.record.last_used, loaded.record.ends_at
        return self._judge(trip, mark, entry.ends_at, loaded, chain)

    def adopt(self, trip: Trip, sight: Sight, rest: float = 0.0) -> Credential | None:
        """Return the credential of a sight, at hand from now on; None where it may not be used, so look again.

        `rest`: the seconds for which no renewal is to be tried.
        """
        chain, bought = sight.chain, sight.bought
        if chain is None or bought is None or self._kit.suspicions.rejects(trip.key, chain.step_of(bought)):
            return None
        credential = Credential(
            trip.key,
            bought.token.value.reveal().encode("ascii"),
            chain.step_of(bought),
            true_from=true_from(bought.token),
            stale_at=stale_at(bought.token, sight.held.jitter),
            usable_until=min(dead_at(bought.token), sight.ends_at),
            suspect=self._kit.suspicions.waiting(trip.key),
        )
        if rest:
            fresh_until = credential.fresh_until
            rest_a_while(credential, self._kit.clock(), rest)
            credential.fresh_until = max(credential.fresh_until, fresh_until)
        if not self._kit.memory.adopt(trip.name, sight.mark, credential):
            return None
        self._planned(trip, credential, bought.token)
        return credential

    def recall(self, trip: Trip) -> Sight | None:
        """Return what is known without the store, where the chain's refresh token is this process's own."""
        entry = self._kit.memory.known(trip.name)
        peak = entry.peak(trip.provider) if entry else None
        if entry is None or peak is None or peak.chain is None or not peak.own:
            return None
        if peak.chain.home != trip.bound.home or self._kit.clock() >= entry.ends_at:
            return None
        return self._judge(trip, entry.mark, entry.ends_at, Loaded(), peak.chain)

    def begin(self, trip: Trip, now: float) -> Chain:
        """Return the chain of a token that is bought where none was read: it goes on from all that is known.

        Where a token was rejected, from that one, so that one rejection after another is not believed for ever.
        """
        entry = self._kit.memory.known(trip.name)
        peak, step = entry.peak(trip.provider) if entry else None, self._kit.suspicions.rejected(trip.key)
        if peak is not None and (step is None or peak.step.passes(step)):
            step = peak.step
        if step is None:
            step = Step(new_sign_in(), 1)
        return Chain(trip.bound.home, max(int(now * 1000), 1), step.sign_in, step.generation)

    def _climb(self, trip: Trip, entry: Entry, chain: Chain, version: int) -> None:
        before = entry.peak(trip.provider)
        own = before is not None and before.own and before.step == chain.step
        whole = chain if self._kit.local and trip.bound.for_user else None
        entry.climb(Peak(trip.provider, chain.step, chain.refresh_token, own, whole), version)

    async def _load(self, trip: Trip) -> Loaded:
        if trip.bound.for_user:
            return await self._kit.records.load(trip.name)
        with suppress(TimeoutError, StoreUnavailableError):
            async with asyncio.timeout(APP_PATIENCE):
                return await self._kit.records.load(trip.name)
        return Loaded()

    def _newest(self, trip: Trip, entry: Entry, loaded: Loaded, chain: Chain, known: Peak | None) -> Chain:
        """Return the chain, or what we know to have been stored after it.

        Where that was `known` before the reading began the store was set back (case RF-18), else its answer was late.
        """
        peak = entry.peak(trip.provider)
        if peak is None or not _behind(chain, loaded, peak, entry):
            return chain
        if trip.bound.for_user and known is not None and known.step == peak.step:
            self._kit.counts.generation_regressions += 1
            _log.error("store_went_back", extra={"record": trip.name[:20]})
        if peak.chain is not None:
            return peak.chain
        sign_in, generation = peak.step.sign_in, peak.step.generation
        return replace(chain, sign_in=sign_in, generation=generation, refresh_token=peak.refresh_token, tokens=())

    def _judge(self, trip: Trip, mark: Mark, ends_at: float, loaded: Loaded, chain: Chain | None) -> Sight:
        until = self._kit.suspicions.rejected(trip.key)
        bought = chain.find(trip.bound.spec, until) if chain else None
        rejected = bool(chain and bought and until and until.reaches(chain.step_of(bought)))
        refresh_token = chain.refresh_token if chain and trip.bound.for_user else None
        held = Held(bought.token if bought else None, refresh_token, self._kit.jitter())
        planned = plan(held, self._kit.clock(), trip.bound.grant.MINTS, rejected)
        if planned is Plan.USE and _due(trip, chain, bought) and (refresh_token or trip.bound.grant.MINTS):
            planned = Plan.USE_AND_RENEW
        return Sight(mark, ends_at, loaded, chain, bought, held, planned, rejected)


def _due(trip: Trip, chain: Chain | None, bought: Bought | None) -> bool:
    """Say whether the token is one that is to be renewed ahead of its time."""
    return bool(chain and bought and trip.ahead and trip.ahead.reaches(chain.step_of(bought)))


def _behind(chain: Chain, loaded: Loaded, peak: Peak, entry: Entry) -> bool:
    """Say whether a chain that was read is older than a known state; of another sign-in, the record's version says."""
    if chain.sign_in != peak.step.sign_in:
        return (loaded.version or 0) < entry.version
    return peak.step.passes(chain.step)


def live_chain(trip: Trip, loaded: Loaded, now: float) -> Chain | None:
    """Return the trip's chain in what was loaded, while the session lives."""
    return loaded.record.chain(trip.provider, trip.bound.home, now) if loaded.record else None


def overtaken(trip: Trip, sight: Sight, theirs: Chain) -> bool:
    """Say whether the chain that the store has now came after what was read: it went on, or is of another sign-in."""
    if sight.chain is None or theirs.sign_in == sight.chain.sign_in:
        return sight.chain is None or theirs.step.passes(sight.chain.step)
    read = sight.loaded.record.chains.get(trip.provider) if sight.loaded.record else None
    return read is None or theirs.sign_in != read.sign_in  # else the store had gone back, and we know better


def rest_a_while(credential: Credential, now: float, seconds: float = REST) -> None:
    """Use a stale credential without trying to renew it for some seconds."""
    credential.true_from = min(credential.true_from, now)
    credential.fresh_until = min(now + seconds, credential.usable_until)
