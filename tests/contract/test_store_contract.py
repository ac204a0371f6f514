"""What every store promises, asked of every store that the registry names."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import LockHeldError, StoreUnavailableError
from sidecar.stores import STORES, open_store
from sidecar.stores.contract import Record, next_version
from tests.support import redis_server
from tests.support.other_process import other_process
from tests.support.store_process import increment

URLS = {
    "memory": lambda _: "memory:",
    "sqlite": lambda directory: f"sqlite:{directory}/store.db",
    "redis": lambda _: redis_server.standalone_url(),
    "rediss": lambda _: redis_server.tls_url(),
    "redis+sentinel": lambda _: redis_server.sentinel_url(),
    "redis+cluster": lambda _: redis_server.cluster_url(),
}
"""For each kind the URL of an empty store, given a directory of its own. A new kind is one line here."""

MARKS = {
    "rediss": [pytest.mark.skipif(not redis_server.has_tls(), reason="no redis-server with TLS here")],
    "redis+sentinel": [pytest.mark.slow],
    "redis+cluster": [pytest.mark.slow],
}
KINDS = [pytest.param(kind, marks=MARKS.get(kind, ())) for kind in URLS]
SHARED = [kind for kind in KINDS if kind.values != ("memory",)]


@pytest.fixture(params=KINDS)
def url(request, tmp_path):
    """Give the URL of an empty store of each kind."""
    return URLS[request.param](tmp_path)


@pytest.fixture(params=SHARED)
def shared_url(request, tmp_path):
    """Give the URL of an empty store of each kind that other processes can use."""
    return URLS[request.param](tmp_path)


@pytest.fixture
async def store(url):
    """Give an empty store of each kind."""
    opened = open_store(url)
    yield opened
    await opened.close()


@pytest.fixture
async def pair(shared_url):
    """Two openers of one shared store."""
    one, two = open_store(shared_url), open_store(shared_url)
    await one.ping()
    await two.ping()
    yield one, two
    await one.close()
    await two.close()


async def until(condition, patience=5.0):
    """Wait for a condition, a bounded time."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110 - the condition is any expression
            await asyncio.sleep(0.01)


# -- the registry --------------------------------------------------------------------------------------------------


def test_every_store_of_the_registry_is_in_this_suite():
    """A kind that is not listed here would not be tested."""
    assert set(STORES) == set(URLS)


@pytest.mark.parametrize("bad", ["", "sqlite", "mysql:x", "SQLITE:x", "/var/lib/store.db"])
def test_an_unknown_scheme_is_refused_with_the_known_ones(bad):
    """The message helps and does not repeat the URL, which may hold a password."""
    with pytest.raises(ValueError, match="memory:, sqlite:"):
        open_store(bad)


NO_PLACE = [
    "memory:x", "sqlite:", "sqlite::memory:", "sqlite:///s.db", "sqlite:a/", "redis:", "redis://", "redis:///0",
    "rediss:host", "redis://a,b", "redis+sentinel://a:1", "redis+sentinel://a:1/m/0/x", "redis+cluster://a:1/1",
]  # fmt: skip


@pytest.mark.parametrize("bad", NO_PLACE)
def test_a_store_url_that_names_no_place_is_refused(bad):
    """Each scheme says what it wants."""
    with pytest.raises(ValueError, match="write "):
        open_store(bad)


async def test_opening_touches_nothing(url, tmp_path):
    """A store comes into being at its first operation."""
    store = open_store(url)
    assert list(tmp_path.iterdir()) == []
    await store.ping()
    assert bool(store.home) == bool(list(tmp_path.iterdir()))
    await store.close()


# -- records -------------------------------------------------------------------------------------------------------

CAS = {
    "nothing there, nothing expected": (None, None, 3, True),
    "nothing there, something expected": (None, 3, 4, False),
    "something there, nothing expected": (3, None, 4, False),
    "the expected version": (3, 3, 4, True),
    "an older version than the stored": (3, 2, 4, False),
    "a newer version than the stored": (3, 4, 5, False),
    "a jump": (3, 3, 2**62, True),
}


@pytest.mark.parametrize(("stored", "expected", "version", "done"), CAS.values(), ids=CAS)
async def test_a_put_happens_only_over_the_expected_version(store, stored, expected, version, done):
    """Compare-and-set: written and said so, or untouched and said so."""
    if stored:
        assert await store.put("key", b"old", expected=None, version=stored)
    assert await store.put("key", b"new", expected=expected, version=version) is done
    before = Record(b"old", stored) if stored else None
    assert await store.get("key") == (Record(b"new", version) if done else before)


@pytest.mark.parametrize(("expected", "version"), [(None, 0), (3, 3), (3, 2), (None, -1), (3, 2**63)])
async def test_a_version_that_does_not_grow_is_a_mistake_of_the_caller(store, expected, version):
    """Nothing is written under a version that is not greater."""
    with pytest.raises(ValueError, match="greater"):
        await store.put("key", b"x", expected=expected, version=version)


@pytest.mark.parametrize("value", [b"", bytes(range(256)), b"x" * 2**20], ids=["empty", "all bytes", "1 MiB"])
async def test_values_come_back_byte_for_byte(store, value):
    """A store does not look into values."""
    assert await store.put("key", value, expected=None, version=1)
    assert await store.get("key") == Record(value, 1)


@pytest.mark.parametrize(
    ("stored", "expected", "done"),
    [(3, None, True), (3, 3, True), (3, 2, False), (None, None, False), (None, 3, False)],
)
async def test_a_delete_removes_the_expected_version_only(store, stored, expected, done):
    """It says whether a record was removed."""
    if stored:
        await store.put("key", b"x", expected=None, version=stored)
    assert await store.delete("key", expected=expected) is done
    assert (await store.get("key") is None) is (done or stored is None)


@pytest.mark.parametrize("ended", ["ID-04 deleted", "expired"])
async def test_a_version_never_comes_back(store, ended):
    """Who still holds the version of an ended record can write neither over it nor over its successor."""
    expires_at = time.time() - 1 if ended == "expired" else None
    await store.put("key", b"first", expected=None, version=5, expires_at=expires_at)
    if ended != "expired":
        await store.delete("key")
    assert not await store.put("key", b"resurrected", expected=5, version=6)
    for version in (1, 4, 5):
        assert not await store.put("key", b"again", expected=None, version=version)
    assert await store.get("key") is None
    assert await store.put("key", b"successor", expected=None, version=6)


def test_next_version_grows_with_time_and_with_the_record():
    """A record made anew gets a version that its predecessor cannot have had."""
    assert next_version(None, 1000.0) == 1_000_000_000
    assert next_version(5, 1000.0) == 1_000_000_000
    assert next_version(1_000_000_000, 1000.0) == 1_000_000_001
    assert next_version(2_000_000_000, 1000.0) == 2_000_000_001


async def test_an_expired_record_is_gone_at_once(store):
    """It is invisible to every operation, purged or not."""
    await store.ping()
    await store.put("key", b"x", expected=None, version=1, expires_at=time.time() + 0.15)
    await store.put("stays", b"x", expected=None, version=1, expires_at=time.time() + 3600)
    assert (await store.get("key"))[:2] == (b"x", 1)
    await asyncio.sleep(0.16)
    assert await store.get("key") is None
    assert await store.keys("") == ["stays"]
    assert not await store.delete("key")
    assert not await store.put("key", b"y", expected=1, version=2)


async def test_a_record_tells_when_it_expires(store):
    """To the millisecond; None where it does not. Who writes it again can keep that."""
    at = time.time() + 3600
    await store.put("ends", b"x", expected=None, version=1, expires_at=at)
    await store.put("stays", b"x", expected=None, version=1)
    assert (await store.get("ends")).expires_at == pytest.approx(at, abs=0.002)
    assert (await store.get("stays")).expires_at is None


async def test_a_put_sets_the_expiry_anew(store):
    """Each version has its own expiry."""
    await store.put("key", b"x", expected=None, version=1, expires_at=time.time() + 3600)
    await store.put("key", b"y", expected=1, version=2, expires_at=time.time() - 1)
    assert await store.get("key") is None


NAMES = ["", "a", "a%", "a*b", "a/1", "a/2", "a[1]", "a_b", "b", "session/{1f}/x", "~"]


@pytest.mark.parametrize("prefix", [*NAMES, "a/", "session/{1f}", "*", "?", "zzz"])
async def test_keys_are_those_that_start_with_the_prefix(store, prefix):
    """The prefix is text, not a pattern; the answer is sorted and holds live keys only."""
    for name in NAMES[1:]:
        await store.put(name, b"x", expected=None, version=1)
    await store.put(prefix + "deleted", b"x", expected=None, version=1)
    await store.delete(prefix + "deleted")
    assert await store.keys(prefix) == [name for name in NAMES[1:] if name.startswith(prefix)]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "delete", "get"]), st.sampled_from("ab"), st.integers(0, 4), st.integers(1, 6)
    ),
    max_size=25,
)


@pytest.mark.parametrize("kind", KINDS)
def test_any_sequence_of_operations_agrees_with_a_dictionary(kind, tmp_path_factory):
    """A model of five lines says what each operation must answer."""

    @settings(max_examples=40, deadline=None)
    @given(OPERATIONS)
    def agrees(operations):
        asyncio.run(compare(URLS[kind](tmp_path_factory.mktemp("model")), operations))

    agrees()


async def compare(url, operations):
    """Run the operations on the store and on a dictionary."""
    store, live, last = open_store(url), {}, {}
    for what, key, expected, version in operations:
        held = live.get(key, (None, None, None))[1]
        if what == "get":
            record = await store.get(key)
            assert (tuple(record) if record else None) == live.get(key)  # a value, its version, and no end of life
        elif what == "delete":
            done = key in live and expected in (0, held)
            assert await store.delete(key, expected=expected or None) is done
            if done:
                del live[key]
        elif version > expected:
            done = held == (expected or None) and version > last.get(key, 0)
            value = b"%d" % version
            assert await store.put(key, value, expected=expected or None, version=version) is done
            if done:
                live[key], last[key] = (value, version, None), version
    assert await store.keys("") == sorted(live)
    await store.close()


# -- concurrency ---------------------------------------------------------------------------------------------------


async def test_increments_under_contention_are_never_lost(store):
    """Compare-and-set is one step, however many callers there are."""

    async def work():
        for _ in range(20):
            await increment(store, "count")

    await asyncio.gather(*(work() for _ in range(8)))
    assert (await store.get("count")).value == b"160"


@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_writers_leave_the_store_whole(store, seed):
    """An operation that is cut off happened entirely or not at all; what was acknowledged stays."""
    chance = random.Random(seed)  # noqa: S311
    acknowledged = 0

    async def work():
        nonlocal acknowledged
        await increment(store, "count")
        acknowledged += 1

    for _ in range(60):
        tasks = [asyncio.create_task(work()) for _ in range(3)]
        await asyncio.sleep(chance.random() * 0.002)
        tasks[0].cancel()
        await asyncio.wait(tasks)
    record = await store.get("count")
    assert 120 <= acknowledged <= int(record.value) <= 180
    assert int(record.value) == record.version


async def test_increments_of_two_processes_are_never_lost(shared_url):
    """The promise holds between processes."""
    store = open_store(shared_url)
    async with other_process(shared_url) as other:
        await other("ping")
        theirs = asyncio.create_task(other("increment", "count", 60))
        for _ in range(60):
            await increment(store, "count")
        assert await theirs is None
    assert (await store.get("count")).value == b"120"
    await store.close()


# -- locks ---------------------------------------------------------------------------------------------------------


async def test_a_lock_has_one_holder_at_a_time(store):
    """Everyone gets it, nobody together with another."""
    holders, most, served = 0, 0, 0

    async def work():
        nonlocal holders, most, served
        async with store.lock("name") as lease:
            holders += 1
            most = max(most, holders)
            await asyncio.sleep(0.002)
            assert not lease.lost
            holders -= 1
            served += 1

    await asyncio.gather(*(work() for _ in range(12)))
    assert (most, served) == (1, 12)


async def test_locks_of_different_names_do_not_wait_for_each_other(store):
    """A session's renewal does not hold up another's."""
    async with asyncio.timeout(5), store.lock("one"), store.lock("two", wait=0.0):
        pass


async def test_a_wait_for_a_held_lock_ends_with_its_time(store):
    """A caller that waited long enough is told, and the lock stays with its holder."""
    async with store.lock("name") as lease:
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            async with asyncio.timeout(5), store.lock("name", wait=0.1):
                pytest.fail("the lock was held twice")
        assert 0.09 < time.monotonic() - started < 2
        assert not lease.lost
    async with store.lock("name", wait=0.1):
        pass


@pytest.mark.parametrize("lease", [0.3], ids=["RF-03"])
async def test_a_lock_held_longer_than_its_lease_is_renewed(store, lease):
    """As long as its holder lives, nobody else gets it."""
    async with store.lock("name", lease=lease) as held:
        await asyncio.sleep(2.7 * lease)
        assert not held.lost
        with pytest.raises(StoreUnavailableError):
            async with store.lock("name", wait=0.05):
                pytest.fail("the lock was held twice")


async def test_a_lock_that_was_let_go_is_not_inherited(store):
    """Neither in order, nor by an error, nor by who was cancelled while he held it: there is nothing to wait for."""
    for error in (None, LookupError, asyncio.CancelledError):
        with suppress(LookupError, asyncio.CancelledError):
            async with store.lock("name", wait=1) as held:
                assert not held.inherited
                if error:
                    raise error


async def test_a_lock_that_was_taken_for_nothing_is_inherited_by_the_next(shared_url, monkeypatch):
    """Who had the lock of a killed holder without knowing it, its answer being lost, has not waited for the dead one."""
    store = open_store(shared_url)
    async with other_process(shared_url) as other:
        await other("lock", "name", 0.3, 5)
        await other.kill()
        await asyncio.sleep(0.4)
        take = store._leases._locks.take

        async def lose_the_answer(*arguments):
            assert await take(*arguments)
            raise StoreUnavailableError("no answer")

        with monkeypatch.context() as patch:
            patch.setattr(store._leases._locks, "take", lose_the_answer)
            with pytest.raises(StoreUnavailableError):
                async with store.lock("name", wait=1):
                    pytest.fail("the answer was lost")
        async with store.lock("name", wait=1) as held:
            assert held.inherited
    await store.close()


async def test_a_lock_is_free_after_an_error_of_its_holder(store):
    """An exception passes through and leaves no lock."""
    with pytest.raises(LookupError):
        async with store.lock("name"):
            raise LookupError
    async with store.lock("name", wait=0.5):
        pass


@pytest.mark.parametrize("seed", range(3), ids="RF-17 seed {}".format)
async def test_cancelled_waiters_and_holders_leave_no_lock(store, seed):
    """Whenever the cancellation comes, the lock is free soon afterwards, and was never held twice."""
    chance = random.Random(seed)  # noqa: S311
    holders = 0

    async def work():
        nonlocal holders
        async with store.lock("name", wait=10):
            holders += 1
            assert holders == 1
            try:
                await asyncio.sleep(chance.random() * 0.002)
            finally:
                holders -= 1

    for _ in range(25):
        tasks = [asyncio.create_task(work()) for _ in range(4)]
        for task in tasks[:3]:
            await asyncio.sleep(chance.random() * 0.002)
            task.cancel()
        done, pending = await asyncio.wait(tasks, timeout=5)
        assert not pending
        assert not [task for task in done if not task.cancelled() and task.exception()]
    async with store.lock("name", wait=1):
        pass


async def test_a_lock_excludes_another_process(shared_url):
    """One holder among all users of the store, and the next one gets it on release."""
    store = open_store(shared_url)
    async with other_process(shared_url) as other:
        assert await other("lock", "name", 15, 5) is None
        with pytest.raises(LockHeldError):
            async with store.lock("name", wait=0.1):
                pytest.fail("the lock was held twice")
        assert await other("release") is None
        async with store.lock("name", wait=1):
            assert await other("lock", "name", 15, 0.1) == "LockHeldError"
    await store.close()


@pytest.mark.parametrize("lease", [0.6], ids=["RF-05"])
async def test_a_killed_holder_is_taken_over_after_its_lease(shared_url, lease):
    """A lock does not outlive its holder by more than the lease."""
    store = open_store(shared_url)
    async with other_process(shared_url) as other:
        await other("lock", "name", lease, 5)
        await other.kill()
        async with store.lock("name", wait=3) as held:
            assert not held.lost
            assert held.inherited
        async with store.lock("name", wait=3) as held:
            assert held.inherited  # the one before was cut off, or had nothing to wait for
            held.waited_out()
        async with store.lock("name", wait=3) as held:
            assert not held.inherited
    await store.close()


@pytest.mark.parametrize("lease", [0.6], ids=["RF-04"])
async def test_a_stopped_holder_loses_its_lease_and_notices(shared_url, lease):
    """Another takes over; when the stopped one goes on, its lease is lost and its release harms nobody."""
    store, third = open_store(shared_url), open_store(shared_url)
    async with other_process(shared_url) as other:
        await other("lock", "name", lease, 5)
        assert await other("lost") is False
        other.stop()
        async with store.lock("name", wait=3) as held:
            other.go_on()
            assert await other("lost") is True
            assert await other("release") is None
            with pytest.raises(StoreUnavailableError):
                async with third.lock("name", wait=0.1):
                    pytest.fail("the lock was held twice")
            assert not held.lost
    await third.close()
    await store.close()


# -- word of changes -----------------------------------------------------------------------------------------------


async def test_changes_of_another_process_are_reported(shared_url):
    """Writes and deletions of others arrive by name, soon; our own and refused ones do not."""
    store, seen = open_store(shared_url), []
    async with other_process(shared_url) as other:
        await store.ping()
        store.watch(seen.append)
        await store.put("ours", b"x", expected=None, version=1)
        await other("put", "theirs", "00", None, 1)
        await until(lambda: seen)
        await other("put", "theirs", "00", 7, 8)
        await other("delete", "ours")
        await until(lambda: "ours" in seen)
        assert seen == ["theirs", "ours"]
    await store.close()


@pytest.mark.parametrize("patience", [1.0], ids=["ID-05"])
async def test_changes_are_reported_within_a_second(pair, patience):
    """A logout on one instance is known to the others within a second."""
    one, two = pair
    await one.put("session", b"x", expected=None, version=1)
    seen = []
    two.watch(seen.append)
    await until(lambda: seen)
    seen.clear()
    await one.delete("session")
    await until(lambda: seen == ["session"], patience)


async def test_changes_that_went_by_unseen_are_reported_as_any(pair):
    """A watcher that missed too much learns that anything may have changed."""
    one, two = pair
    seen = []
    await one.put("key", b"x", expected=None, version=1)
    for version in range(1, 1100):
        await one.put("key", b"x", expected=version, version=version + 1)
    two.watch(seen.append)
    await until(lambda: seen)
    assert seen == [""]


async def test_many_changes_of_our_own_are_not_reported_with_another_s(pair):
    """However much we write, another's change arrives by its name."""
    one, two = pair
    seen = []
    two.watch(seen.append)
    await two.put("key", b"x", expected=None, version=1)
    for version in range(1, 1100):
        await two.put("key", b"x", expected=version, version=version + 1)
    await asyncio.sleep(0.3)
    await one.put("other", b"x", expected=None, version=1)
    await until(lambda: seen)
    assert seen == ["other"]


async def test_an_error_of_a_watcher_does_not_end_the_watch(pair):
    """The loop's own handler hears of it; the next change is reported all the same."""
    one, two = pair
    seen, errors = [], []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))

    def fail(key):
        seen.append(key)
        raise LookupError(key)

    two.watch(fail)
    await one.put("a", b"x", expected=None, version=1)
    await until(lambda: seen == ["a"])
    await one.put("b", b"x", expected=None, version=1)
    await until(lambda: seen == ["a", "b"])
    assert [type(error) for error in errors] == [LookupError, LookupError]


# -- closing -------------------------------------------------------------------------------------------------------


async def test_a_closed_store_kept_everything(pair, shared_url):
    """What was acknowledged is there for the next opener; closing twice does no harm."""
    one, _ = pair
    await one.put("key", b"x", expected=None, version=1)
    await one.close()
    await one.close()
    with pytest.raises(StoreUnavailableError):
        await one.get("key")
    again = open_store(shared_url)
    assert await again.get("key") == Record(b"x", 1)
    await again.close()
