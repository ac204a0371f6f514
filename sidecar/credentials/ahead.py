"""Renewal ahead of need: which tokens are renewed before they go stale, and when.

Decides only: `due` hands out keys, the broker renews them. A token is renewed ahead if it was used since it was
obtained; so a session that nobody uses any more costs one renewal and then none. The times are spread over a part of
the token's life (`lifecycle.ahead_at`): sessions that were signed in together do not expire together. One heap for each
provider, no timers; a provider that rests costs one look, however many wait for it.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from sidecar.credentials.session_record import Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.credentials.entry import Credential
    from sidecar.model import TokenKey

AT_ONCE = 16
"""Renewals ahead of need under way at once, for each provider."""
SHORTEST = 30.0
"""Seconds of life that a token needs to be worth it."""
AGAIN = 30.0
"""Seconds after which one that came to nothing is tried again, and as much more by chance."""
MOST_STALE = 64
_NOTHING = (-1.0, Step(0, 0))


class Due(NamedTuple):
    """A token to renew: the one of `key` and this step."""

    key: TokenKey
    step: Step


class Ahead:
    """What is to be renewed ahead, by provider."""

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[float, int, TokenKey]]] = {}
        self._planned: dict[TokenKey, tuple[float, Step]] = {}
        self._numbers = count()
        self._stale = 0  # what stands in a heap and was forgotten
        self.under_way: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._planned)

    def plan(self, provider: str, credential: Credential, at: float) -> float:
        """Look at a token again at the time `at`, unless that is planned already; return when it is looked at."""
        before = self._planned.get(credential.key)
        if before is not None and before[1] == credential.step:
            return before[0]
        self.forget(credential.key)
        self._planned[credential.key] = (at, credential.step)
        heappush(self._heaps.setdefault(provider, []), (at, next(self._numbers), credential.key))
        return at

    def forget(self, key: TokenKey) -> None:
        """Look at a token no more, as long as nobody plans it again."""
        if self._planned.pop(key, None) is not None:
            self._stale += 1
            if self._stale > MOST_STALE + len(self._planned) // 2:
                self._tidy()

    def providers(self) -> list[str]:
        """Return the providers whose tokens are planned."""
        return list(self._heaps)

    def due(self, provider: str, now: float) -> Iterator[Due]:
        """Give the tokens whose time has come, as long as there is room for one more."""
        heap = self._heaps.get(provider, [])
        while heap and heap[0][0] <= now and self.under_way.get(provider, 0) < AT_ONCE:
            at, _, key = heappop(heap)
            planned = self._planned.get(key)
            if planned is not None and planned[0] == at:
                del self._planned[key]
                yield Due(key, planned[1])
        if not heap:
            self._heaps.pop(provider, None)

    def _tidy(self) -> None:
        self._stale = 0
        for provider, heap in list(self._heaps.items()):
            heap[:] = [one for one in heap if self._planned.get(one[2], _NOTHING)[0] == one[0]]
            heapify(heap)
            if not heap:
                del self._heaps[provider]

    def begun(self, provider: str) -> None:
        """Take note that a renewal is under way."""
        self.under_way[provider] = self.under_way.get(provider, 0) + 1

    def ended(self, provider: str) -> None:
        """Take note that it has ended."""
        self.under_way[provider] -= 1
        if not self.under_way[provider]:
            del self.under_way[provider]
