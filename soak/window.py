"""How long a rotated refresh token exists in one process only: from the authorization server's answer to our store.

Whoever is killed within that time loses it, and the user has to sign in again: nothing can be done about it from here.
This measures it, renewal by renewal, with the store's own durability: SQLite flushes to the disk, Redis answers when
its master has it. The time from the provider's own commit to its answer comes on top; it is the provider's.
"""

from __future__ import annotations

import tempfile
import time
from typing import TYPE_CHECKING, Any

from sidecar.credentials.broker import Broker
from sidecar.credentials.vault import Vault, generate_key
from sidecar.model import Granted, Secret, Token, TokenKey, TokenSpec
from sidecar.stores import open_store
from soak.command import main, options
from tests.support import redis_server

if TYPE_CHECKING:
    import argparse

    from sidecar.model import Form, Outcome

LIFE = 3600.0


class Rotating:
    """An authorization server that rotates at once, and notes when."""

    def __init__(self) -> None:
        self.number = 0
        self.answered = 0.0

    async def token(self, form: Form, **_options: Any) -> Outcome:
        del form
        self.number += 1
        now = time.time()
        granted = Granted(Token(Secret(f"a{self.number}"), now, now + LIFE), Secret(f"r{self.number}"))
        self.answered = time.perf_counter()
        return granted

    async def revoke(self, _token: Secret, _hint: str) -> bool:
        return True

    def turned_away(self, *, urgent: bool) -> None:
        del urgent

    def resting(self) -> float:
        return 0.0


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Renew one session after the other, each by a caller whose token has been rejected."""
    spec, server, windows = TokenSpec("idp", "https://idp.test", "app", "session"), Rotating(), []
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:{folder}/s.db" if arguments.store == "sqlite" else redis_server.standalone_url())
        put = store.put

        async def timed(*given: Any, **named: Any) -> bool:
            done = await put(*given, **named)
            if server.answered:
                windows.append(time.perf_counter() - server.answered)
                server.answered = 0.0
            return done

        store.put = timed  # type: ignore[method-assign]
        broker = Broker({spec.fingerprint: spec}, {"idp": server}, store, Vault([Secret(generate_key())]))
        signed_in = {"access_token": "a", "token_type": "Bearer", "refresh_token": "r", "expires_in": 3}
        for number in range(arguments.renewals):
            key = TokenKey(spec.fingerprint, f"session-{number}")
            await broker.sessions.put(key.identity, "idp", signed_in)
            await broker.obtain(key, rejected=await broker.obtain(key))
        await broker.close(5)
        await store.close()
    windows.sort()
    middle, late = windows[len(windows) // 2], windows[int(len(windows) * 0.99)]
    return {
        "store": arguments.store,
        "renewals": len(windows),
        "median_us": round(middle * 1e6),
        "p99_us": round(late * 1e6),
        "longest_us": round(windows[-1] * 1e6),
        "share_of_an_hour": f"{middle / LIFE:.1e}",
        "failures": {"renewals_not_stored": len(windows) != arguments.renewals},
    }


if __name__ == "__main__":
    main(run, options("The time for which a rotated refresh token is in one process only.", renewals=(500, "how many")))
