"""N instances, C callers each, E expiries: one token request per key and expiry, and everybody is answered.

In each round all callers ask at once, most rounds when every token has expired, some (by the seed) when it is stale and
is to be renewed in the background. Between rounds the books of the authorization server are checked.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from soak.command import main, options, progress
from soak.fleet import Fleet, running
from soak.load import Caller, Tally, one

if TYPE_CHECKING:
    import argparse

SETTLED = 3.0  # seconds in which a token request too many must have shown
STALE_SHARE = 0.25
STALE_AT = 0.85  # of the life, where every instance takes it for stale whatever its jitter


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    async with running(
        arguments.instances, store=arguments.store, seed=arguments.seed, redis_timeout=arguments.redis_timeout
    ) as fleet:
        await fleet.far.ask("set", life=arguments.life, slow=arguments.latency)
        await fleet.sign_in(arguments.keys)
        signed_in = time.time()
        callers = [
            (Caller(instance), fleet.users[number % arguments.keys])
            for instance in fleet.instances
            for number in range(arguments.callers)
        ]
        draw, tally, failures = random.Random(arguments.seed), Tally(), []
        by_key: Counter[str] = Counter(dict.fromkeys(fleet.users, 0))
        issued, requests, stale_rounds = signed_in, 0, 0
        for expiry in range(arguments.expiries):
            stale = expiry > 0 and draw.random() < STALE_SHARE
            stale_rounds += stale
            due = issued + arguments.life * (STALE_AT if stale else 1.0)
            await asyncio.sleep(max(0.0, due - time.time()))
            books = await _round(fleet, callers, tally, stale)
            requests += books["token_requests"]
            by_key.update(books["by_user"])
            issued = books["last_arrival"]
            failures += _judge(expiry, books, fleet.users)
            if expiry % 10 == 9:
                progress(f"{expiry + 1} expiries, {requests} token requests, {tally}")
        for caller, _ in callers:
            caller.close()
        await asyncio.sleep(SETTLED)
        rest = await fleet.far.ask("books")
        failures += [f"{rest['token_requests']} token requests after the last round"] * (rest["token_requests"] > 0)
        return {
            "program": "expiries",
            "store": arguments.store,
            "instances": arguments.instances,
            "callers": len(callers),
            "keys": arguments.keys,
            "expiries": arguments.expiries,
            "of_them_in_the_background": stale_rounds,
            "token_requests": requests,
            "of_each_key": [min(by_key.values()), max(by_key.values())],
            "answers": tally.kinds,
            "asked_again": tally.again,
            "longest_wait": round(tally.worst, 2),
            "families_revoked": len(await fleet.far.ask("dead")),
            "complaints": fleet.complaints(),
            "failures": {
                "rounds": failures[:10],
                "wrong": tally.wrong[:10],
                "answers": {kind: count for kind, count in tally.kinds.items() if kind != "200"},
                "dead": await fleet.far.ask("dead"),
            },
        }


async def _round(fleet: Fleet, callers: list[tuple[Caller, str]], tally: Tally, stale: bool) -> dict[str, Any]:
    """Let all ask at once; return the books when every renewal has been answered."""
    await asyncio.gather(*(one(caller, user, tally, again=True) for caller, user in callers))
    books: dict[str, Any] = await fleet.far.ask("books")
    until = time.monotonic() + 5.0
    while stale and books["token_requests"] < len(fleet.users) and time.monotonic() < until:
        await asyncio.sleep(0.05)
        books = _sum(books, await fleet.far.ask("books"))
    return books


def _sum(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    by_user = dict(before["by_user"])
    for user, count in after["by_user"].items():
        by_user[user] = by_user.get(user, 0) + count
    return {
        **before,
        "token_requests": before["token_requests"] + after["token_requests"],
        "by_user": by_user,
        "last_arrival": max(before["last_arrival"], after["last_arrival"]),
        "reuses": before["reuses"] + after["reuses"],
        "wrong": before["wrong"] | after["wrong"],
        "outcomes": before["outcomes"] | after["outcomes"],
    }


def _judge(expiry: int, books: dict[str, Any], users: list[str]) -> list[str]:
    """Return what is not as it must be: one good token request for each user, no reuse, every token its user's."""
    wrong = []
    if books["by_user"] != dict.fromkeys(users, 1) or books["token_requests"] != len(users):
        odd = {user: books["by_user"].get(user, 0) for user in users if books["by_user"].get(user, 0) != 1}
        wrong.append(f"expiry {expiry}: {books['token_requests']} token requests {books['outcomes']}, {odd}")
    if books["reuses"]:
        wrong.append(f"expiry {expiry}: reuse {books['reuses']}")
    if books["wrong"]:
        wrong.append(f"expiry {expiry}: the upstream saw {books['wrong']}")
    return wrong


if __name__ == "__main__":
    main(
        run,
        options(
            __doc__.splitlines()[0],
            instances=(8, "sidecar processes on one store"),
            callers=(250, "callers at each instance"),
            expiries=(100, "rounds"),
            keys=(10, "users, so keys"),
            life=(8.0, "seconds that a token lives"),
            redis_timeout=(2.0, "for which Redis is waited for; a machine that does much else is no outage; seconds"),
            latency=(2.0, "the authorization server's, at most; seconds"),
        ),
    )
