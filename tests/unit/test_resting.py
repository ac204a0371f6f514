"""Sessions at rest: what a folded session keeps, and that it behaves like one that is not."""

from __future__ import annotations

import asyncio
import random
import string
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from sidecar.credentials import awake, memory
from sidecar.credentials.entry import Credential, Entry, Peak
from sidecar.credentials.folded import Words, fold, unfold
from sidecar.credentials.session_record import Step
from sidecar.credentials.sessions import TOUCH_EVERY
from sidecar.credentials.tending import ROUND
from sidecar.credentials.tight import loosen, tighten
from sidecar.errors import Refusal
from sidecar.model import Secret, TokenKey
from tests.support.credentials import APP, OTHER_ROUTE, USER, Bench, keyed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST_BYTES = 1100
"""What a session at rest with tokens of 900 characters together may take; it is about 1 030, and was 2 400 as objects."""
URL_SAFE = string.ascii_letters + string.digits + "-_"


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Return a broker that folds every session but the one used last."""
    monkeypatch.setattr(awake, "MOST_AWAKE", 1)
    made = Bench()
    yield made
    await asyncio.wait_for(made.broker.close(1), 5)


async def used(bench: Bench, *sessions: str) -> None:
    for session in sessions:
        await bench.sign_in(session)
        await bench.token(USER, session)


def resting(bench: Bench) -> int:
    return len(bench.broker._memory.resting)


@pytest.mark.parametrize(
    "text",
    [
        b"", b".", b"a", b"ab", b"abc", b"abcd", b"a.b", b"..", b".a.", b"eyJh.eyJz.c2ln", b"1.2.3.4.5.6.7.8.9",
        b"1.2.3.4.5.6.7.8.9.10", b"a+b/c=", b"abc=", b"with~tilde", b"-_-_", b"A" * 70_000, b"\xff\x00",
    ],
)  # fmt: skip
def test_tightened_text_comes_back_as_it_was(text: bytes) -> None:
    """Whatever a token is made of."""
    assert loosen(tighten(text)) == text


def test_tokens_of_any_length_come_back_and_take_three_quarters() -> None:
    """Those of base64url with dots; others take one byte more."""
    some = random.Random(1)  # noqa: S311 - lengths and letters for a test
    for length in range(200):
        token = "".join(some.choices(URL_SAFE, k=length)).encode()
        dotted = token[: length // 3] + b"." + token[length // 3 :]
        odd = token + b"~"
        assert loosen(tighten(token)) == token
        assert loosen(tighten(dotted)) == dotted
        assert loosen(tighten(odd)) == odd
        assert len(tighten(token)) <= length * 3 / 4 + 6
        assert len(tighten(odd)) == len(odd) + 1


def test_folded_entry_comes_back_as_it_was() -> None:
    """All of it, with two routes and two providers."""
    entry = Entry(7)
    entry.epoch, entry.sure, entry.last_used, entry.ends_at = 12, False, 1.5, 3e9
    entry.version = 1_800_000_000_000_000
    keys = [TokenKey(fingerprint, "session-id") for fingerprint in ("one", "two")]
    for number, key in enumerate(keys):
        one = Credential(
            key, b"tok.%d" % number, Step(5, number), true_from=1.0, stale_at=2.0, usable_until=3.0, suspect=True
        )
        one.used_at, one.ahead_at, one.fresh_until = number * 4.0, 9.0, 2.5
        entry.credentials += (one,)
    entry.peaks = (Peak("idp", Step(5, 1), Secret("refresh"), own=True), Peak("other", Step(6, 2), None))
    words = Words()
    back, hot = unfold(fold(entry, {keys[1]: entry.credentials[1]}, words), words)
    assert [credential.key for credential in hot] == [keys[1]]
    assert (back.mark, back.sure, back.last_used, back.ends_at) == (entry.mark, False, 1.5, 3e9)
    assert back.version == entry.version
    assert (back.used_at, back.peaks) == (4.0, entry.peaks)
    for before, after in zip(entry.credentials, back.credentials, strict=True):
        assert all(getattr(before, name) == getattr(after, name) for name in Credential.__slots__)


async def test_session_at_rest_is_served_at_once(bench: Bench) -> None:
    """Each its own token, without asking the store or the provider."""
    await used(bench, "alice", "bob", "carol")
    assert resting(bench) == 2
    for session in ("alice", "bob", "carol", "alice"):
        ready = bench.broker.ready(keyed(USER, session), bench.clock())
        assert ready is not None
        assert ready.token.startswith(b"access.%b." % session.encode())
    assert resting(bench) == 2
    assert bench.server.calls == 0
    assert bench.broker.ready(keyed(OTHER_ROUTE, "bob"), bench.clock()) is None
    assert bench.broker.ready(keyed(USER, "dave"), bench.clock()) is None


async def test_session_at_rest_is_seen_by_operators(bench: Bench) -> None:
    """Its token is counted by state, and the next expiry too."""
    await used(bench, "alice", "bob", "carol")
    assert bench.broker.states() == {"fresh": 3, "renewing": 0}
    assert bench.broker.figures()["now"]["sessions"] == 3
    assert bench.broker.valid_for(bench.clock()) == 3598
    assert bench.broker.peek(keyed(USER, "alice"), bench.clock()).state == "fresh"
    bench.clock.now += 3560
    assert bench.broker.states() == {"stale": 3, "renewing": 0}


async def test_deleted_session_at_rest_is_gone(bench: Bench) -> None:
    """No instance serves it any more, and the others stay."""
    await used(bench, "alice", "bob", "carol")
    await bench.broker.sessions.delete("alice")
    assert bench.broker.ready(keyed(USER, "alice"), bench.clock()) is None
    with pytest.raises(Refusal, match="login_required"):
        await bench.token(USER, "alice")
    assert bench.broker.ready(keyed(USER, "bob"), bench.clock()) is not None


async def test_session_at_rest_whose_record_may_have_changed_is_read_again(bench: Bench) -> None:
    """After word of one record, and after word that any may have changed."""
    await used(bench, "alice", "bob", "carol")
    bench.broker._changed(await bench.broker._records.name("alice"))
    assert bench.broker.ready(keyed(USER, "alice"), bench.clock()) is None
    assert bench.broker.ready(keyed(USER, "bob"), bench.clock()) is not None
    bench.broker._changed("")
    assert bench.broker.states() == {"renewing": 0}
    for session in ("alice", "bob", "carol"):
        assert bench.broker.ready(keyed(USER, session), bench.clock()) is None
        assert (await bench.token(USER, session)).startswith(f"access.{session}.")
    assert bench.server.calls == 0


async def test_session_at_rest_survives_a_store_that_was_set_back(bench: Bench) -> None:
    """[RF-18] Memory wins: the refresh token that it has folded is the one that is spent."""
    await bench.sign_in("alice", expires_in=1)
    backup = dict(bench.store._rows)
    bench.clock.now += 10
    await bench.token(USER, "alice")
    await used(bench, "bob")
    bench.store._rows = backup | {name: row for name, row in bench.store._rows.items() if name not in backup}
    bench.clock.now += 4000
    assert await bench.token(USER, "alice") == "access.alice.read.4"
    assert bench.broker.counts.generation_regressions > 0
    assert not bench.server.killed


async def test_session_at_rest_is_renewed_ahead(bench: Bench) -> None:
    """[RF-10] Once in a round every session at rest is looked at, and woken shortly before it is due."""
    await used(bench, "alice", "bob", "carol")
    bench.clock.now += 2170
    for _ in range(ROUND + 2):
        bench.broker.tending.visit(bench.clock())
        bench.broker.tending.tick(bench.clock())
        await bench.idle()
    assert bench.broker.counts.renewals == {"background": 3}


async def test_last_use_of_a_session_at_rest_is_stored(bench: Bench) -> None:
    """So that its idle lifetime counts from there; and once only."""
    await used(bench, "alice", "bob", "carol")
    bench.clock.now += TOUCH_EVERY + 1
    for session in ("alice", "bob", "carol"):
        assert bench.broker.ready(keyed(USER, session), bench.clock()) is not None
    assert len(bench.broker._memory.lagging(TOUCH_EVERY)) == 3
    await bench.broker.sessions.flush_last_used()
    assert not bench.broker._memory.lagging(0)
    shown = await bench.broker.sessions.info("alice")
    assert shown is not None
    assert shown.last_used == bench.clock()


async def test_sweep_frees_what_has_expired_at_rest(bench: Bench) -> None:
    """First the token, then all of the session."""
    await used(bench, "alice", "bob", "carol")
    bench.clock.now += 4000
    bench.broker._memory.sweep(bench.clock())
    assert bench.broker.states() == {"renewing": 0}
    assert bench.broker._memory.sessions() == 3
    bench.clock.now += 8 * 86_400
    bench.broker._memory.sweep(bench.clock())
    assert len(bench.broker._memory) == 0


async def test_applications_token_is_never_folded(bench: Bench) -> None:
    """There are few, and each is in use."""
    await bench.token(APP)
    await used(bench, "alice", "bob")
    assert keyed(APP) in bench.broker._memory.hot


async def test_thousands_in_use_at_once_stay_awake_and_rest_afterwards(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where many are woken, memory is spent instead of time."""
    monkeypatch.setattr(awake, "MANY_WOKEN", 1)
    users = [f"user{number}" for number in range(12)]
    await used(bench, *users)
    for _ in range(5):
        for user in users:
            bench.broker.ready(keyed(USER, user), bench.clock())
        bench.broker._memory.breathe()
    assert resting(bench) == 0
    for _ in range(100):
        bench.broker._memory.breathe()
    assert resting(bench) == 11


def test_session_at_rest_takes_little_more_than_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 000 live sessions fit into 60 MB: `python -m benchmarks.footprint` measures the whole process."""
    monkeypatch.setattr(awake, "MOST_AWAKE", 10)
    held, count = memory.Memory(), 2000
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(count):
        name, step = f"session:{{{number:064x}}}", Step(number + 2**62, 1)
        entry = held.entry(name, 0.0)
        entry.climb(Peak("idp", step, Secret("r" * 190 + f"{number:010}")), 1)
        token = b"eyJ." + b"t" * 690 + b"%06d" % number
        key = TokenKey(USER.fingerprint, f"{number:043}")
        assert held.adopt(name, entry.mark, Credential(key, token, step, true_from=0.0, stale_at=9e9, usable_until=9e9))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held.sessions() == count
    assert grown / count < MOST_BYTES
