"""The user sessions as the session API sees them: put after a sign-in, shown without tokens, deleted and revoked.

Judges nothing of what the application hands over (`handed_over`) and renews nothing (`renewal`). The id of a session is
stored nowhere; who lists sessions sees a part of its hash. Lifetimes are in `session_record`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sidecar.callers import session_id as session_ids
from sidecar.credentials import handed_over
from sidecar.credentials.entry import Peak
from sidecar.credentials.records import SESSIONS, Loaded, Records, new_sign_in, version_over
from sidecar.credentials.session_record import ABSOLUTE_LIFE, IDLE_LIFE, Chain, Params, SessionRecord, signed_in
from sidecar.errors import STORE_FAULTS, Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sidecar.credentials.memory import Memory
    from sidecar.credentials.registry import Registry
    from sidecar.model import Granted, Identity

SHOWN = 12
"""Characters of a session's identifier that are shown."""
TOUCH_EVERY = 600.0
"""Seconds by which the stored time of last use may lag behind."""
REVOCATION_TIME = 5.0
ATTEMPTS = 6
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """One provider's part of a session. `seconds_left` is of the longest-lived access token, at least 0."""

    provider: str
    scopes: tuple[str, ...]
    seconds_left: float
    has_refresh_token: bool
    generation: int


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What may be shown of a session. Times are seconds since the epoch; `identifier` is a part of the hash."""

    identifier: str
    created: float
    last_used: float
    expires_at: float
    subject: str | None
    providers: tuple[ProviderInfo, ...]


class Life(NamedTuple):
    """How long a session lives, in seconds: after its last use, and after its sign-in."""

    idle: float = IDLE_LIFE
    absolute: float = ABSOLUTE_LIFE


class Sessions:
    """The sessions of one store. Every method raises `Refusal` (store_unavailable) where the store is away."""

    def __init__(
        self, registry: Registry, records: Records, memory: Memory, clock: Callable[[], float], *, local: bool = False
    ) -> None:
        self._registry = registry
        self._records = records
        self._memory = memory
        self._clock = clock
        self._local = local
        self._revocations: set[asyncio.Task[None]] = set()
        self.ended: Callable[[str, int, SessionRecord | None], None] = lambda *_: None
        self.signed_in: Callable[[str, SessionRecord, int, Loaded], None] = lambda *_: None
        self.life = Life()

    async def put(self, session_id: str, provider: str, response: Mapping[str, object]) -> SessionInfo:
        """Create the session or replace its whole chain at `provider` with a token response.

        `response` is the body of the token response; `audience` (a string) and `resource` (a string or a list, RFC
        8707) may say what its access token is for. `Refusal` (bad_request) where it is no good.
        """
        home = self._home(provider)
        granted = handed_over.judged(response, self._clock())
        audience, resources = handed_over.audience(response), handed_over.resources(response)
        name, sign_in = await self.name(session_id), new_sign_in()

        def join(record: SessionRecord | None, now: float) -> SessionRecord:
            alive = record if record and now < record.ends_at else SessionRecord(now, now)
            before = alive.chains.get(provider)
            if before and before.identity:  # the subject was that identity's: whose the new tokens are is not known
                alive = replace(alive, subject=None)
            alive = replace(alive, idle=self.life.idle, absolute=self.life.absolute)
            chain = signed_in(home, int(now * 1000), sign_in, granted, audience, resources)
            return alive.with_chain(provider, chain, now)

        record = await self._replace(name, provider, join)
        return _info(name, record, self._clock())

    async def open(
        self, name: str, provider: str, granted: Granted, identity: Identity, params: Params | None = None
    ) -> None:
        """Make the session `name` of a user whom the sidecar itself signed in; what was under the name is gone.

        `params`: the extra parameters of its token request.
        """
        home = self._home(provider)
        if not home.endswith(f"@{identity.issuer}"):  # a reload gave the name to another meanwhile: not its tokens
            raise Refusal("login_required", "The provider is another by now.")

        sign_in = new_sign_in()

        def join(_record: SessionRecord | None, now: float) -> SessionRecord:
            chain = signed_in(home, int(now * 1000), sign_in, granted, identity=identity, params=params)
            return SessionRecord(now, now, identity.subject, {provider: chain}, *self.life)

        await self._replace(name, provider, join)

    def is_home(self, provider: str, chain: Chain) -> bool:
        """Say whether the provider's name means the issuer and client that a chain belongs to."""
        return self._registry.home(provider) == chain.home

    async def load(self, name: str) -> SessionRecord | None:
        """Return the record of a session that lives."""
        record = (await asked(self._records.load(name))).record
        return record if record and self._clock() < record.ends_at else None

    async def ends_at(self, name: str) -> float | None:
        """Return when the session of this record ends, None: it has."""
        record = await self.load(name)
        return record.ends_at if record else None

    async def info(self, session_id: str) -> SessionInfo | None:
        """Return what may be shown of a session, None where there is none."""
        return await self._show(await self.name(session_id))

    async def all(self, limit: int = 1000) -> list[SessionInfo]:
        """Return up to `limit` sessions, by identifier."""
        names = (await asked(self._records.sessions()))[:limit]
        return [info for info in [await self._show(name) for name in names] if info is not None]

    async def delete(self, session_id: str, *, heir: Identity | None = None) -> bool:
        """Delete a session, then revoke its refresh tokens (RFC 7009); say whether there was one.

        From the return of the store on no instance that hears of it uses the session; revocation is best effort.
        `heir`: who has signed in in its place. Their own former refresh token is forgotten, not revoked: many servers
        end with it all that they have granted to this user and client, the new tokens too.
        """
        return await self.erase(await self.name(session_id), heir=heir)

    async def delete_listed(self, identifier: str) -> bool:
        """Delete the one session that `all` shows with this identifier; False where it is not exactly one."""
        names = await asked(self._records.sessions(identifier)) if len(identifier) >= SHOWN else []
        return len(names) == 1 and await self.erase(names[0])

    async def flush_last_used(self) -> None:
        """Store the time of last use of the sessions for which it lags."""
        for name, used_at in self._memory.lagging(TOUCH_EVERY):
            await self._touch(name, used_at)
            self._memory.touched(name, used_at)

    async def settle(self) -> None:
        """Return when the revocations under way are done."""
        while self._revocations:
            await asyncio.wait(self._revocations)

    async def name(self, session_id: str) -> str:
        """Return the name of a session's record; `Refusal` (bad_request) for an id that cannot be one."""
        try:
            session_ids.read(session_id.encode("ascii"))
        except (Refusal, UnicodeEncodeError):
            raise Refusal("bad_request", "The session id is malformed.") from None
        return await asked(self._records.name(session_id))

    async def _replace(
        self, name: str, provider: str, join: Callable[[SessionRecord | None, float], SessionRecord]
    ) -> SessionRecord:
        for attempt in range(ATTEMPTS):
            over = await asked(self._records.load(name))
            now = self._clock()
            record = join(over.record, now)
            version = version_over(over.version, now, attempt)
            if await asked(self._records.save(name, record, over, now, version=version)):
                self.signed_in(name, record, version, over)
                self._own(name, provider, record, version)
                return record
        raise Refusal("store_unavailable", retry_after=1)

    def _own(self, name: str, provider: str, record: SessionRecord, version: int) -> None:
        """Use nothing older of the session, also where the store goes back to it.

        Where the store may be done without, know what that is done with.
        """
        self._memory.drop(name)
        entry = self._memory.entry(name, self._clock()) if self._local else self._memory.known(name)
        if entry is not None:
            chain = record.chains[provider]
            entry.last_used, entry.ends_at = record.last_used, record.ends_at
            entry.read(version, record.sign_ins)
            whole = chain if self._local else None
            entry.climb(Peak(provider, chain.step, chain.refresh_token, own=True, chain=whole), version)
            self._memory.make_room(name)

    async def _show(self, name: str) -> SessionInfo | None:
        record = await self.load(name)
        return _info(name, record, self._clock()) if record else None

    async def erase(self, name: str, *, wait: bool = True, heir: Identity | None = None) -> bool:
        """Delete the session `name` and revoke its refresh tokens, see `delete`. `wait`: for the revocation too."""
        self._memory.bury(name, self._clock())
        deleted, record = await self._erase(name)
        self._memory.bury(name, self._clock())  # whoever read it before the deletion adopts nothing
        if record is not None:
            chains = {provider: chain for provider, chain in record.chains.items() if not _goes_on(chain, heir)}
            revocation = asyncio.get_running_loop().create_task(self._revoke(chains))
            self._revocations.add(revocation)
            revocation.add_done_callback(self._revocations.discard)
            if wait:
                await asyncio.shield(revocation)
        return deleted

    def _home(self, provider: str) -> str:
        home = self._registry.home(provider)
        if home is None:
            raise Refusal("bad_request", "No user route of the configuration uses this provider.")
        return home

    async def _erase(self, name: str) -> tuple[bool, SessionRecord | None]:
        over = Loaded()
        for _ in range(ATTEMPTS):
            over = await asked(self._records.load(name))
            if over.version is None:
                break
            if await asked(self._records.delete(name, over)):
                self.ended(name, over.version, over.record)
                return True, over.record
        return await asked(self._records.delete(name)), over.record

    async def _revoke(self, chains: Mapping[str, Chain]) -> None:
        async def one(provider: str, chain: Chain) -> None:
            server = self._registry.server(provider, chain.home)
            if server is not None and chain.refresh_token is not None:
                await server.revoke(chain.refresh_token, "refresh_token")

        tasks = [asyncio.ensure_future(one(provider, chain)) for provider, chain in chains.items()]
        _, late = await asyncio.wait(tasks, timeout=REVOCATION_TIME) if tasks else ((), ())
        for task in late:
            task.cancel()

    async def _touch(self, name: str, used_at: float) -> None:
        over = await asked(self._records.load(name))
        if over.record is not None and used_at > over.record.last_used:
            # Where another write came in between, that was a use as well.
            await asked(self._records.save(name, replace(over.record, last_used=used_at), over, self._clock()))


async def asked(answer: Awaitable[T]) -> T:
    """Return what the store answers; `Refusal` (store_unavailable) where it does not."""
    try:
        return await answer
    except STORE_FAULTS:
        raise Refusal("store_unavailable", retry_after=1) from None


def _goes_on(chain: Chain, heir: Identity | None) -> bool:
    """Say whether a chain is of the person who has signed in in its place."""
    before = chain.identity
    return before is not None and heir is not None and before[:2] == heir[:2]


def _info(name: str, record: SessionRecord, now: float) -> SessionInfo:
    identifier = name.removeprefix(SESSIONS).strip("{}")[:SHOWN]
    providers = tuple(_provider_info(provider, chain, now) for provider, chain in sorted(record.chains.items()))
    return SessionInfo(identifier, record.created, record.last_used, record.ends_at, record.subject, providers)


def _provider_info(provider: str, chain: Chain, now: float) -> ProviderInfo:
    scopes = {scope for bought in chain.tokens for scope in bought.token.scopes or ()}
    left = max((bought.token.expires_at - now for bought in chain.tokens), default=0.0)
    return ProviderInfo(
        provider, tuple(sorted(scopes)), max(left, 0.0), chain.refresh_token is not None, chain.generation
    )
