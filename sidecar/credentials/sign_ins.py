"""The sessions that the sidecar itself signs in: opened, looked at, and ended by their issuer's word.

A record of its own for each subject and for each `sid` of an issuer lists the sessions, so that a back-channel logout
finds them without reading every session. The list is written before the session and read again after it: a logout that
comes in between takes the session off the list, and the sign-in notices. One that comes still earlier, while the tokens
are on their way, leaves a mark with its time, which the sign-in finds. An entry may outlive its session; so each
session's own record says whose it is. Neither subject nor `sid` can be read from the store.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import orjson

from sidecar.credentials.sessions import ATTEMPTS, asked
from sidecar.errors import Refusal
from sidecar.stores.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from sidecar.credentials.records import Records
    from sidecar.credentials.session_record import Chain, Params, SessionRecord
    from sidecar.credentials.sessions import Sessions
    from sidecar.model import Granted, Identity, Secret

MOST_LISTED = 500
"""Sessions on one list: the newest. The oldest of more than that end: no logout of their issuer would find them."""

ON_THE_WAY = 600.0
"""Seconds for which a logout is remembered: no sign-in takes longer from its token request to its session."""

RIVALS = 60
"""Times that a list is read again because another instance has changed it: each time one of them is done."""
TURN = 10.0
"""Seconds that a change of a list waits for the others of this process."""

_SOME = "\0"
"""Stands for whatever `sid` a logout named beside a subject: it concerns sign-ins that named none."""

Listed = dict[str, float]
"""Names of session records, and until when each can live (seconds since the epoch)."""


class SignedIn(NamedTuple):
    """What is known of a session. `subject` is None where an application handed it over. Times: since the epoch.

    `id_token`: where the provider's name still means the issuer and client that it is from.
    """

    provider: str
    subject: str | None
    since: float
    expires_at: float
    id_token: Secret | None


class SignIns:
    """Sign-ins over one store. Every method may raise `Refusal` (store_unavailable)."""

    def __init__(self, sessions: Sessions, records: Records, clock: Callable[[], float]) -> None:
        self._sessions = sessions
        self._records = records
        self._clock = clock
        self._turns = Turns()

    async def open(
        self, session_id: str, provider: str, granted: Granted, identity: Identity, params: Params | None = None
    ) -> bool:
        """Store the session; False where its issuer has signed it out since its tokens were asked for."""
        name = await self._sessions.name(session_id)
        places = [await self._of_subject(identity.issuer, identity.subject)]
        if identity.sid:
            places.append(await self._of_sid(identity.issuer, identity.sid))
        until = self._clock() + self._sessions.life.absolute
        for place in places:
            for surplus in await self._enlist(place, name, until):
                await self._sessions.erase(surplus, wait=False, heir=identity)
        await self._sessions.open(name, provider, granted, identity, params)
        still = [name in await self._listed(place) for place in places]
        if all(still) and not await self._signed_out_after(granted.token.requested_at, identity):
            return True
        await self._sessions.erase(name)
        return False

    async def find(self, session_id: str) -> SignedIn | None:
        """Return what is known of a session that lives. `Refusal` (bad_request) for what cannot be an id."""
        record = await self._sessions.load(await self._sessions.name(session_id))
        if record is None or not record.chains:
            return None
        provider, chain = next(iter(record.chains.items()))
        id_token = chain.id_token if self._sessions.is_home(provider, chain) else None
        return SignedIn(provider, record.subject, record.created, record.ends_at, id_token)

    async def end(self, issuer: str, subject: str, sid: str) -> int:
        """End the sessions of the issuer's `sid`, or of `subject` where there is none; return how many there were.

        A session whose sign-in named no `sid` cannot be told from the subject's others, and ends with them.
        """
        places = [await self._of_sid(issuer, sid)] if sid else []
        if subject:
            places.append(await self._of_subject(issuer, subject))
        await self._mark(issuer, subject, sid)  # before the lists are read: who is not on them yet will look for it
        listed = {name for place in places for name in await self._listed(place)}
        gone = {name for name in listed if await self._concerned(name, issuer, subject, sid)}
        ended = await self._erase(gone)  # first: where the store fails now, the issuer's next try finds them listed
        for place in places if gone else ():
            await self._change(place, lambda old: {name: until for name, until in old.items() if name not in gone})
        return len(ended) + len(await self._erase(gone - ended))  # stored meanwhile, by sign-ins that saw the old list

    async def succeeded(self, chain: Chain) -> bool:
        """Say whether whom a chain was of has a session by another sign-in. Which came later no clock can tell."""
        if chain.identity is None:
            return False
        listed = await self._listed(await self._of_subject(*chain.identity[:2]))
        for name in reversed(listed):
            record = await self._sessions.load(name)
            if record and any(_is_another(one, chain) for one in record.chains.values()):
                return True
        return False

    async def happened(self, kind: str, text: str) -> bool:
        """Say whether `once` has taken note of something."""
        name = await asked(self._records.found_by("once", kind, text))
        return (await asked(self._records.read(name)))[1] is not None

    async def once(self, kind: str, text: str, until: float) -> bool:
        """Take note of something that may happen once before `until`; False where it had happened."""
        name = await asked(self._records.found_by("once", kind, text))
        for attempt in range(2):  # a second one, past what a deletion left behind
            if await asked(self._records.write(name, b"", None, self._clock(), until, attempt)):
                return True
            if (await asked(self._records.read(name)))[1] is not None:
                return False
        return False

    # -- inside -------------------------------------------------------------------------------------------------

    async def _erase(self, names: Iterable[str]) -> set[str]:
        """Delete sessions at once; return which of them there were."""
        order = list(names)
        deleted = await asyncio.gather(*(self._sessions.erase(name, wait=False) for name in order))
        return {name for name, was_there in zip(order, deleted, strict=True) if was_there}

    async def _of_subject(self, issuer: str, subject: str) -> str:
        return await asked(self._records.found_by("by-sub", issuer, subject))

    async def _of_sid(self, issuer: str, sid: str) -> str:
        return await asked(self._records.found_by("by-sid", issuer, sid))

    async def _mark(self, issuer: str, subject: str, sid: str) -> None:
        """Remember the time of a logout."""
        now = self._clock()
        for mark in [(subject, sid), (subject, _SOME)] if subject and sid else [(subject, sid)]:
            name = await asked(self._records.found_by("out", issuer, *mark))
            await self._rewrite(name, lambda _old: (orjson.dumps(now), now + ON_THE_WAY))

    async def _signed_out_after(self, moment: float, identity: Identity) -> bool:
        """Say whether a logout that concerns `identity` came after a moment (seconds since the epoch)."""
        subject, sid = identity.subject, identity.sid
        marks = [(subject, ""), ("", sid), (subject, sid)] if sid else [(subject, ""), (subject, _SOME)]
        names = [await asked(self._records.found_by("out", identity.issuer, *mark)) for mark in marks]
        found = [plain for plain, _ in [await asked(self._records.read(name)) for name in names]]
        return any(orjson.loads(plain) > moment for plain in found if plain)

    async def _concerned(self, name: str, issuer: str, subject: str, sid: str) -> bool:
        """Say whether a listed session is to end. One that is not stored yet is: its sign-in will notice."""
        record = await self._sessions.load(name)
        return record is None or any(_is_of(identity, issuer, subject, sid) for identity in _identities(record))

    async def _listed(self, place: str) -> Listed:
        plain, _ = await asked(self._records.read(place))
        return _read(plain, self._clock())

    async def _enlist(self, place: str, name: str, until: float) -> Iterable[str]:
        """Put a session on a list; return those that have no place there any more."""
        surplus: list[str] = []

        def with_one_more(old: Listed) -> Listed:
            listed = old | {name: until}
            surplus[:] = list(listed)[:-MOST_LISTED]
            return {one: listed[one] for one in listed if one not in surplus}

        await self._change(place, with_one_more)
        return surplus

    async def _change(self, place: str, change: Callable[[Listed], Listed]) -> None:
        def changed(plain: bytes | None) -> tuple[bytes, float]:
            now = self._clock()
            listed = change(_read(plain, now))
            return orjson.dumps(listed), max(listed.values(), default=now + 1)

        await self._rewrite(place, changed)

    async def _rewrite(self, name: str, make: Callable[[bytes | None], tuple[bytes, float]]) -> None:
        """Replace what was written as `name` by what `make` makes of it: its bytes, and until when they are kept.

        An issuer ends the sessions of one user all at once, and each changes that user's list: those of this process
        take turns, so that only one of each instance meets the others'.
        """
        async with self._turn(name):
            before: int | None = -1
            blind = 0  # tries whose failure nothing in the store explains, see `version_over`
            for _ in range(RIVALS):
                plain, version = await asked(self._records.read(name))
                blind = blind + 1 if version == before else 0
                if blind >= ATTEMPTS:
                    break
                made, until = make(plain)
                if await asked(self._records.write(name, made, version, self._clock(), until, blind)):
                    return
                before = version
        raise Refusal("store_unavailable", retry_after=1)

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await asked(stack.enter_async_context(self._turns.turn(name, TURN)))
            yield


def _read(plain: bytes | None, now: float) -> Listed:
    listed = orjson.loads(plain) if plain else {}
    return {name: until for name, until in listed.items() if now < until}


def _is_another(one: Chain, other: Chain) -> bool:
    """Say whether a chain is of another sign-in of the other one's user, with the same client."""
    ours, theirs = one.identity, other.identity
    return bool(ours and theirs and ours[:2] == theirs[:2]) and one.home == other.home and one.sign_in != other.sign_in


def _identities(record: SessionRecord) -> Iterable[Identity]:
    return [chain.identity for chain in record.chains.values() if chain.identity is not None]


def _is_of(identity: Identity, issuer: str, subject: str, sid: str) -> bool:
    if identity.issuer != issuer or (subject and identity.subject != subject):
        return False
    return not sid or identity.sid == sid or (not identity.sid and bool(subject))
