"""Carrying out what `ahead` decides: renewals of tokens in use before anybody has to wait for one.

Starts them bit by bit and with the lowest urgency, so that requests which wait for a token go first; leaves a provider
alone that rests. Holds no token.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from sidecar.credentials.ahead import AGAIN, SHORTEST, Ahead, Due
from sidecar.credentials.entry import NEVER
from sidecar.credentials.lifecycle import ahead_at
from sidecar.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.credentials.entry import Credential
    from sidecar.credentials.registry import Registry
    from sidecar.credentials.sight import Kit, Trip
    from sidecar.model import Token

TICK = 0.25
"""Seconds between two looks for what is due."""
ROUND = 60
"""Looks in which all sessions at rest are visited once."""
SOON = 2 * ROUND * TICK
"""Seconds before it is due for which a session at rest is woken."""
_log = logging.getLogger(__name__)


class Tending:
    """The tokens of one broker. `renew` renews one that is due, and may raise `Refusal`."""

    def __init__(self, kit: Kit, registry: Registry, renew: Callable[[Due], Awaitable[None]]) -> None:
        self._kit = kit
        self._registry = registry
        self._renew = renew
        self._ahead = Ahead()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._ahead)

    def plan(self, trip: Trip, credential: Credential, token: Token) -> None:
        """Look at a credential again before it goes stale, where it can be renewed."""
        entry = self._kit.memory.known(trip.name)
        peak = entry.peak(trip.provider) if entry else None
        renewable = bool(peak and peak.refresh_token) if trip.bound.for_user else trip.bound.grant.MINTS
        if renewable and token.life >= SHORTEST:
            at, now = ahead_at(token, (self._kit.jitter() - 1) * 4), self._kit.clock()
            # Where that is over, a renewal has just failed, or another process has had the token for long.
            self._plan(trip.provider, credential, at if at > now else now + AGAIN * self._kit.jitter())

    async def run(self) -> None:
        """Renew what is due, for ever."""
        while True:
            await asyncio.sleep(TICK)
            self.tick(self._kit.clock())
            self.visit(self._kit.clock())

    def tick(self, now: float) -> None:
        """Begin to renew what is due, as much as there is room for."""
        for provider in self._ahead.providers():
            if not self._registry.resting(provider):
                for due in self._ahead.due(provider, now):
                    self._begin(provider, due, now)

    def visit(self, now: float) -> None:
        """Wake some of the sessions at rest whose tokens are due soon: all of them once in `ROUND` calls."""
        self._kit.memory.breathe()
        for name in self._kit.memory.resting.due(now + SOON, ROUND):
            entry = self._kit.memory.known(name)
            for credential in entry.credentials if entry else ():
                # Folded again before it is renewed, it is not woken at once: its provider may rest for hours.
                credential.ahead_at = max(credential.ahead_at, now + AGAIN)

    def woken(self, credential: Credential) -> None:
        """Plan for a credential that was at rest what had been planned for it."""
        bound = self._registry.bound(credential.key.fingerprint)
        if bound is not None and credential.ahead_at < NEVER:
            self._ahead.plan(bound.spec.provider, credential, credential.ahead_at)

    def folded(self, credential: Credential) -> None:
        """Leave a credential that goes to rest to `visit`."""
        self._ahead.forget(credential.key)

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the renewals under way."""
        return list(self._tasks)

    def _begin(self, provider: str, due: Due, now: float) -> None:
        held = self._kit.memory.hot.get(due.key)
        if held is None or held.step != due.step or not held.used_at or not held.usable(now):
            return
        self._ahead.begun(provider)
        task = asyncio.get_running_loop().create_task(self._tend(due))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(provider, due, done))

    async def _tend(self, due: Due) -> None:
        try:
            await self._renew(due)
        except Refusal as refusal:  # nobody waits: who needs the token is told
            _log.debug("not_renewed_ahead", extra={"reason": refusal.code})

    def _ended(self, provider: str, due: Due, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ahead.ended(provider)
        held = self._kit.memory.hot.get(due.key)
        if task.cancelled():
            return
        now = self._kit.clock()
        if held is not None and held.step == due.step and held.usable(now):
            self._plan(provider, held, now + AGAIN * self._kit.jitter())
        self.tick(now)

    def _plan(self, provider: str, credential: Credential, at: float) -> None:
        credential.ahead_at = self._ahead.plan(provider, credential, at)
