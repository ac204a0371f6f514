"""One flight: read the record, plan, and where needed take the chain's lock, read and plan again, ask, settle, store.

Carries out what `lifecycle` decides. The rules that keep a rotating refresh token (RFC 6749 section 6, RFC 9700
section 4.14) alive among many instances and keys:

* It is spent only under the lock of its chain, which is looked at in the moment of sending, and only as it was read
  after taking the lock.
* What came of it is stored before anyone is answered (`writer`).
* An answer that comes after the timeout is not lost: it is waited for with the lock held, and stored like any other.
* Who takes the lock over from one that never let go of it waits for a moment and reads again: the other may be alive,
  and hold a rotated refresh token that the store did not take before the lease was over. Who could not wait it out
  leaves that to the next one.
* `invalid_grant` ends a chain only where the store, read again, holds nothing newer than what was spent.

An application's token has no refresh token to lose: where the store is away it is minted without. Where the
configuration says `on_outage: local`, a user's may be renewed without too, by the one instance that may (`outage`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from sidecar.credentials.hurry import Hurry
from sidecar.credentials.lifecycle import Plan, Verdict, dead_at, settle
from sidecar.credentials.session_record import Chain, SessionRecord, renewed, rotated, serves
from sidecar.credentials.sight import REST, Kit, Reader, Sight, Trip, live_chain, overtaken
from sidecar.errors import STORE_FAULTS, Refusal, StoreUnavailableError
from sidecar.model import ClientRefused, Granted, GrantRefused, Invalid, Outcome, Unavailable
from sidecar.oauth.error_codes import shown

if TYPE_CHECKING:
    from sidecar.credentials.entry import Credential
    from sidecar.credentials.outage import Outages
    from sidecar.credentials.records import Loaded
    from sidecar.credentials.writer import Writer
    from sidecar.gate import Urgency
    from sidecar.stores.contract import Lease

ROUNDS = 8
"""How often a flight begins anew because somebody else was faster."""
APP_LOCK_WAIT = 3.0
"""Seconds that an application's token waits for the others of its key; then it is minted all the same."""
CONFIRM_AFTER = 0.25
"""Seconds between an `invalid_grant` and the reading that confirms it."""
HEIR_WAITS = 3.0
"""Seconds for which a lock that was not let go is held before its refresh token is spent."""
CONSENT_PAUSE = 30.0
_log = logging.getLogger(__name__)
_NEEDS_USER = frozenset({"interaction_required", "login_required", "consent_required"})  # OpenID Connect Core 3.1.2.6


class Renewals:
    """Flights over one store."""

    def __init__(self, kit: Kit, reader: Reader, writer: Writer, outages: Outages) -> None:
        self._kit = kit
        self._reader = reader
        self.hurry = Hurry()
        self._writer = writer
        self._outages = outages
        self.late: dict[tuple[str, str], asyncio.Task[None]] = {}  # by record and provider

    async def fetch(self, trip: Trip) -> Credential:
        """Return a usable credential; raise `Refusal`, `StoreUnavailableError` or `StoreBrokenError`."""
        for _ in range(ROUNDS):
            credential = await self._attempt(trip)
            if credential is not None:
                return credential
        raise StoreUnavailableError("too many others write this record")

    async def look_again(self, trip: Trip, rest: float) -> Credential | None:
        """Return what the store has, where it may be used, for `rest` seconds without a renewal; raise as `fetch`."""
        sight = await self._look(trip)
        return self._reader.adopt(trip, sight, rest) if sight.answers(eager=False) else None

    async def _attempt(self, trip: Trip) -> Credential | None:
        """Use what the store has or renew it; without the store, where that is allowed. None: begin anew."""
        if not (self._outages.allowed and trip.bound.for_user):
            return await self._with_store(trip)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._outages.turn((trip.name, trip.provider)))
            try:
                return await self._with_store(trip)
            except StoreUnavailableError:
                if not await self._outages.confirmed():
                    raise
                return await self._act(trip, self._recalled(trip), stack, None)

    async def _with_store(self, trip: Trip) -> Credential | None:
        sight = await self._look(trip)
        if sight.answers(trip.eager):
            return self._reader.adopt(trip, sight)
        self._leave_alone(trip)
        # With thousands in line for the provider, a lock for each who only hears that would be the store's undoing.
        away = trip.bound.server.turned_away(urgent=not trip.eager)
        if away is not None:
            raise _refusal(away, trip)
        return await self._locked(trip)

    def _leave_alone(self, trip: Trip) -> None:
        """Raise where the refresh token has been sent, and what came of it is still to come or to be stored."""
        if (trip.name, trip.provider) in self.late:
            raise Refusal("provider_unavailable", retry_after=1)
        if (trip.name, trip.provider) in self._writer.kept:
            raise StoreUnavailableError("a rotated refresh token is not stored yet")

    def _recalled(self, trip: Trip) -> Sight:
        self._leave_alone(trip)
        sight = self._reader.recall(trip)
        if sight is None:
            raise StoreUnavailableError("the store is away, and this session's refresh token is not ours alone")
        return sight

    async def _look(self, trip: Trip) -> Sight:
        sight = await self._reader.look(trip)
        if sight.plan is Plan.NEED_LOGIN:
            raise self._nobody(trip, sight.loaded)
        return sight

    async def _locked(self, trip: Trip) -> Credential | None:
        """Take the lock, look again, act. None: somebody else was faster, begin anew."""
        async with AsyncExitStack() as stack:
            lease = await self._take_lock(trip, stack)
            sight = await self._look(trip)
            if lease is not None and lease.inherited and trip.bound.for_user and not sight.answers(trip.eager):
                _log.info("lock_inherited", extra={"record": trip.name[:20]})
                await self._kit.sleep(HEIR_WAITS)
                sight = await self._look(trip)
                lease.waited_out()
            if not sight.answers(trip.eager) and not self._outages.may_spend(trip):
                raise StoreUnavailableError("the store was away, and others may have spent the refresh token")
            return await self._act(trip, sight, stack, lease)

    async def _act(self, trip: Trip, sight: Sight, lock: AsyncExitStack, lease: Lease | None) -> Credential | None:
        """Use what was seen under the lock, or renew it."""
        if sight.answers(trip.eager):
            return self._reader.adopt(trip, sight)
        if lease is not None and lease.lost:
            return None
        late: list[asyncio.Task[Outcome]] = []
        with self.hurry.asking((trip.name, trip.provider)) as urgency:
            urgency.urgent |= not trip.eager
            outcome, planned = await self._ask(trip, sight, late, urgency, lease)
        if late:
            self._follow(trip, sight, late[0], lock.pop_all())
        elif isinstance(outcome, Unavailable) and lease is not None and lease.lost:
            return None
        return await self._settle(trip, sight, outcome, planned, lock)

    async def _take_lock(self, trip: Trip, stack: AsyncExitStack) -> Lease | None:
        lock = self._kit.records.lock(trip.name, trip.provider)
        if trip.bound.for_user:
            return await stack.enter_async_context(lock)
        with suppress(TimeoutError, *STORE_FAULTS):
            async with asyncio.timeout(APP_LOCK_WAIT):
                return await stack.enter_async_context(lock)
        return None

    async def _ask(
        self, trip: Trip, sight: Sight, late: list[asyncio.Task[Outcome]], urgency: Urgency, lease: Lease | None
    ) -> tuple[Outcome, Plan]:
        """Send the token request, a second one where the first says that only minting is left.

        An answer that is still to come, of a request that has timed out, is put into `late`. A refresh token is sent
        only while the lock is ours: between our look at it and the sending we may have been stopped.
        """
        (spec, grant, server, _), planned = trip.bound, sight.plan
        self._kit.counts.renewals[_cause(sight)] += 1
        if sight.held.refresh_token is not None:
            form = grant.renew(spec, sight.held.refresh_token)
            wanted = None if lease is None else lambda: not lease.lost
            outcome = await server.token(form, asked=spec.scopes, late=late.append, urgency=urgency, wanted=wanted)
            if settle(outcome, planned, sight.held, self._kit.clock(), grant.MINTS) is not Verdict.RETRY_AS_MINT:
                return outcome, planned
            planned = Plan.MINT
        return await server.token(grant.mint(spec), asked=spec.scopes, urgency=urgency), planned

    def _follow(self, trip: Trip, sight: Sight, late: asyncio.Task[Outcome], lock: AsyncExitStack) -> None:
        """Keep the chain's lock until the late answer has come and is stored: nobody spends the old refresh token."""
        place = (trip.name, trip.provider)
        task = self.late[place] = asyncio.get_running_loop().create_task(self._settle_late(trip, sight, late, lock))
        task.add_done_callback(lambda _done: self.late.pop(place))

    async def _settle_late(self, trip: Trip, sight: Sight, late: asyncio.Task[Outcome], lock: AsyncExitStack) -> None:
        async with lock:
            outcome = await late
            with suppress(Refusal, *STORE_FAULTS):  # nobody waits; what could not be stored is kept by the writer
                await self._settle(trip, sight, outcome, sight.plan, lock)

    async def _settle(
        self, trip: Trip, sight: Sight, outcome: Outcome, planned: Plan, lock: AsyncExitStack
    ) -> Credential | None:
        if isinstance(outcome, Granted) and _of_another(trip, sight, outcome):
            await self._end(trip, sight, outcome)
        after = self._after(trip, sight, outcome, planned)
        if after is not None and not await self._writer.store(trip, sight, after, lock):
            return None
        verdict = settle(outcome, planned, sight.held, self._kit.clock(), trip.bound.grant.MINTS)
        if verdict is Verdict.KEEP and after is not None:
            return self._kept(trip, sight, after)
        if verdict is Verdict.STILL_USE:
            return self._reader.adopt(trip, sight, rest=REST)
        if verdict is Verdict.FORGET and trip.bound.for_user:
            await self._forget(trip, sight)
            return None
        if isinstance(outcome, ClientRefused) and self._reader.outdated(trip, sight):
            return None  # signed in anew meanwhile, perhaps: the refusal was not for what the session has now
        raise _refusal(outcome, trip)

    def _after(self, trip: Trip, sight: Sight, outcome: Outcome, planned: Plan) -> Chain | None:
        """Return the chain that an outcome leaves, where it changed: even a bad answer may bring a refresh token."""
        chain, now = sight.chain, self._kit.clock()
        if isinstance(outcome, Granted):
            chain = chain or self._reader.begin(trip, now)
            if planned is Plan.MINT:
                chain = replace(chain, refresh_token=None)
            if not trip.bound.for_user:  # RFC 6749 section 4.4.3
                outcome = outcome._replace(refresh_token=None)
            return renewed(chain, trip.bound.spec, outcome, now)
        if isinstance(outcome, Invalid) and outcome.refresh_token and chain and trip.bound.for_user:
            return rotated(chain, outcome.refresh_token)
        return None

    def _kept(self, trip: Trip, sight: Sight, chain: Chain) -> Credential | None:
        """Return the credential that was bought, where it is one for this route."""
        bought = chain.tokens[-1]
        if not serves(bought, trip.bound.spec):
            name = "login_required" if trip.bound.for_user else "provider_refused"
            raise Refusal(name, "The granted scope does not cover this route's.", retry_after=CONSENT_PAUSE)
        if self._kit.clock() >= dead_at(bought.token):
            raise Refusal("provider_invalid", "The access token expired before it could be used.", retry_after=1)
        return self._reader.adopt(trip, replace(sight, chain=chain, bought=bought))

    async def _forget(self, trip: Trip, sight: Sight) -> None:
        """End a chain for `invalid_grant`, where the store confirms that nothing newer than what was spent exists.

        Whoever won a race for it may have the answer and not yet have stored it, so the store is given a moment.
        """
        await self._kit.sleep(CONFIRM_AFTER)
        loaded = await self._kit.records.load(trip.name)
        chain = live_chain(trip, loaded, self._kit.clock())
        if loaded.record is None or chain is None:
            raise self._nobody(trip, loaded)
        if overtaken(trip, sight, chain):
            self._kit.counts.lost_races += 1
        elif await self._erase(trip, loaded, loaded.record.without(trip.provider)):
            self._kit.memory.forget_peak(trip.name, trip.provider)
            raise Refusal("login_required")

    async def _end(self, trip: Trip, sight: Sight, granted: Granted) -> NoReturn:
        """End a session whose token was renewed for another than who signed in (OpenID Connect Core section 12.2)."""
        self._kit.counts.changed_identities += 1
        _log.error("identity_changed", extra={"record": trip.name[:20], "provider": trip.provider})
        self._kit.memory.bury(trip.name, self._kit.clock())
        await self._kit.records.delete(trip.name)
        self._kit.memory.bury(trip.name, self._kit.clock())
        for token in (granted.refresh_token, sight.held.refresh_token):
            if token is not None:
                await trip.bound.server.revoke(token, "refresh_token")
        raise Refusal("login_required", "The authorization server renewed the token for another user.")

    async def _erase(self, trip: Trip, loaded: Loaded, rest: SessionRecord) -> bool:
        if rest.chains:
            return await self._kit.records.save(trip.name, rest, loaded, self._kit.clock())
        return await self._kit.records.delete(trip.name, loaded)

    def _nobody(self, trip: Trip, loaded: Loaded) -> Refusal:
        if loaded.record is None:
            self._kit.memory.unknown(trip.name, self._kit.clock())
        return Refusal("login_required")


def _of_another(trip: Trip, sight: Sight, granted: Granted) -> bool:
    identity = sight.chain.identity if sight.chain else None
    if identity is None or granted.id_token is None:
        return False
    from sidecar.oauth.id_token import same_person  # noqa: PLC0415 - joserfc takes 150 ms, and only sign-in needs it

    return not same_person(granted.id_token, identity, trip.bound.spec.client)


def _cause(sight: Sight) -> str:
    if sight.rejected:
        return "rejection"
    if sight.plan is Plan.USE_AND_RENEW:
        return "background"
    return "expiry" if sight.held.token is not None else "mint"


def _refusal(outcome: Outcome, trip: Trip) -> Refusal:
    """Return what a caller is told of a token request that brought nothing."""
    match outcome:
        case Unavailable(_, retry_after):
            return Refusal("provider_unavailable", retry_after=max(1.0, retry_after or 1.0))
        case ClientRefused(error) if error in _NEEDS_USER and trip.bound.for_user:
            return Refusal("login_required", "The authorization server asks for the user.", retry_after=CONSENT_PAUSE)
        case ClientRefused(error) | GrantRefused(error):
            return Refusal("provider_refused", f"The authorization server refused this client: {shown(error)}.")
        case _:
            return Refusal("provider_invalid")
