"""The sessions that the sidecar itself signs in: opened, looked at, and ended by their issuer's word.

A record of its own for each subject and for each `sid` of an issuer lists the sessions, so that a back-channel logout
finds them without reading every session. The list is written before the session and read again after it: a logout that
comes in between takes the session off the list, and the sign-in notices. An entry may outlive its session; so each
session's own record says whose it is. Neither subject nor `sid` can be read from the store.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import orjson

from sidecar.credentials.sessions import ATTEMPTS, asked
from sidecar.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.credentials.records import Records
    from sidecar.credentials.session_record import SessionRecord
    from sidecar.credentials.sessions import Sessions
    from sidecar.model import Granted, Identity, Secret

MOST_LISTED = 500
"""Sessions on one list: the newest. A subject with more signs the oldest out by their own lifetimes only."""

Listed = dict[str, float]
"""Names of session records, and until when each can live (seconds since the epoch)."""


class SignedIn(NamedTuple):
    """What is known of a session. `subject` is None where an application handed it over. Times: since the epoch."""

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

    async def open(self, session_id: str, provider: str, granted: Granted, identity: Identity) -> bool:
        """Store the session; False where its issuer has signed it out again meanwhile."""
        name = await self._sessions.name(session_id)
        places = [await self._of_subject(identity.issuer, identity.subject)]
        if identity.sid:
            places.append(await self._of_sid(identity.issuer, identity.sid))
        until = self._clock() + self._sessions.life.absolute
        for place in places:
            await self._change(place, lambda listed: listed | {name: until})
        await self._sessions.open(name, provider, granted, identity)
        still = [name in (await self._listed(place))[0] for place in places]
        if all(still):
            return True
        await self._sessions.erase(name)
        return False

    async def find(self, session_id: str) -> SignedIn | None:
        """Return what is known of a session that lives. `Refusal` (bad_request) for what cannot be an id."""
        record = await self._sessions.load(await self._sessions.name(session_id))
        if record is None or not record.chains:
            return None
        provider, chain = next(iter(record.chains.items()))
        return SignedIn(provider, record.subject, record.created, record.ends_at, chain.id_token)

    async def end(self, issuer: str, subject: str, sid: str) -> int:
        """End the sessions of the issuer's `sid`, or of `subject` where there is none; return how many there were.

        A session whose sign-in named no `sid` cannot be told from the subject's others, and ends with them.
        """
        places = [await self._of_sid(issuer, sid)] if sid else []
        if subject:
            places.append(await self._of_subject(issuer, subject))
        listed = {name for place in places for name in (await self._listed(place))[0]}
        gone = {name for name in listed if await self._concerned(name, issuer, subject, sid)}
        for place in places if gone else ():
            await self._change(place, lambda old: {name: until for name, until in old.items() if name not in gone})
        return sum(await asyncio.gather(*(self._sessions.erase(name, wait=False) for name in gone)))

    async def once(self, kind: str, text: str, until: float) -> bool:
        """Take note of something that may happen once before `until`; False where it had happened."""
        name = await asked(self._records.found_by("once", kind, text))
        for attempt in range(2):  # a second one, past what a deletion left behind
            if await asked(self._records.write(name, b"", None, self._clock(), until, attempt)):
                return True
            if (await asked(self._records.read(name)))[1] is not None:
                return False
        return False

    async def again(self, kind: str, text: str) -> None:
        """Let what `once` took note of happen once more."""
        name = await asked(self._records.found_by("once", kind, text))
        await asked(self._records.delete(name))

    # -- inside -------------------------------------------------------------------------------------------------

    async def _of_subject(self, issuer: str, subject: str) -> str:
        return await asked(self._records.found_by("by-sub", issuer, subject))

    async def _of_sid(self, issuer: str, sid: str) -> str:
        return await asked(self._records.found_by("by-sid", issuer, sid))

    async def _concerned(self, name: str, issuer: str, subject: str, sid: str) -> bool:
        """Say whether a listed session is to end. One that is not stored yet is: its sign-in will notice."""
        record = await self._sessions.load(name)
        return record is None or any(_is_of(identity, issuer, subject, sid) for identity in _identities(record))

    async def _listed(self, place: str) -> tuple[Listed, int | None]:
        plain, version = await asked(self._records.read(place))
        listed = orjson.loads(plain) if plain else {}
        now = self._clock()
        return {name: until for name, until in listed.items() if now < until}, version

    async def _change(self, place: str, change: Callable[[Listed], Listed]) -> None:
        for attempt in range(ATTEMPTS):
            listed, version = await self._listed(place)
            changed = dict(list(change(listed).items())[-MOST_LISTED:])
            now = self._clock()
            until = max(changed.values(), default=now + 1)
            if await asked(self._records.write(place, orjson.dumps(changed), version, now, until, attempt)):
                return
        raise Refusal("store_unavailable", retry_after=1)


def _identities(record: SessionRecord) -> Iterable[Identity]:
    return [chain.identity for chain in record.chains.values() if chain.identity is not None]


def _is_of(identity: Identity, issuer: str, subject: str, sid: str) -> bool:
    if identity.issuer != issuer or (subject and identity.subject != subject):
        return False
    return not sid or identity.sid == sid or (not identity.sid and bool(subject))
