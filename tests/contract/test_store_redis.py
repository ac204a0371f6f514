"""The Redis stores against what happens to servers: away, hung, read-only, full, flushed, garbled, failing over."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import socket
import time
from contextlib import asynccontextmanager, suppress

import pytest

from sidecar.errors import StoreBrokenError, StoreUnavailableError
from sidecar.stores import (
    open_store,
    redis_driver,  # noqa: F401 - what it imports takes its time, which is not to be measured here
)
from sidecar.stores.contract import Record
from tests.support import redis_server
from tests.support.redis_server import Replicated, server
from tests.support.store_process import increment
from tests.support.tcp_proxy import proxy

COSTS = 0.6  # seconds that an operation may take at most while Redis does not answer
SOON = 1.0
SECRETS = ("s3cr3t", "127.0.0.1", "user-name")


@pytest.fixture
def redis():
    """A server of one's own."""
    with server() as one:
        yield one


@pytest.fixture
def shared():
    """The server that tests share; keys are kept apart by prefixes."""
    return redis_server.standalone()


@asynccontextmanager
async def opened(port, options="", login="", host="127.0.0.1"):
    """Open a store as operators do, with the time-outs that they get."""
    prefix = redis_server.prefix()
    store = open_store(f"redis://{login}{host}:{port}/0?prefix={prefix}{options}")
    store.test_prefix = prefix
    try:
        yield store
    finally:
        await store.close()


def record_key(store, name):
    """Return the key under which a record without a tag of its own is kept."""
    return f"{store.test_prefix}:{{-}}r:{name}"


class Late:
    """How long this process was kept from running, which says nothing of a store."""

    def __init__(self):
        self.seconds = 0.0

    async def watch(self):
        while True:
            due = time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            self.seconds += time.monotonic() - due


async def seconds(operation):
    """Return how long an operation takes to fail, and that it fails as it should."""
    late, started = Late(), time.monotonic()
    watch = asyncio.create_task(late.watch())
    with pytest.raises(StoreUnavailableError) as caught:
        await operation
    took = time.monotonic() - started
    watch.cancel()
    assert not any(secret in str(caught.value) for secret in SECRETS)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return took - late.seconds


async def eventually(operation, patience):
    """Repeat an operation until it succeeds; return its answer and how long that took."""
    started = time.monotonic()
    async with asyncio.timeout(patience):
        while True:
            try:
                return await operation(), time.monotonic() - started
            except StoreUnavailableError:
                await asyncio.sleep(0.02)


async def until(condition, patience):
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110 - the condition is any expression
            await asyncio.sleep(0.01)


def put(store, key="key", value=b"x", expected=None, version=1, **more):
    return store.put(key, value, expected=expected, version=version, **more)


# -- away ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", [put, lambda s: s.get("a"), lambda s: s.keys(""), lambda s: s.ping(), lambda s: s.delete("a")],
                         ids=["RD-01 put", "RD-01 get", "RD-01 keys", "RD-01 ping", "RD-01 delete"])  # fmt: skip
async def test_a_server_that_is_down_at_start_is_reported_and_used_when_it_comes(operation):
    """Opening needs no server; each operation fails by name, at once, and works as soon as there is one."""
    port = redis_server.free_port()
    async with opened(port) as store:
        assert await seconds(operation(store)) < COSTS
    one = redis_server.Server()
    async with opened(one.port) as store:
        store.watch(lambda _: None)
        await seconds(store.ping())
        try:
            one.start()
            _, took = await eventually(store.ping, SOON)
            assert took < SOON
        finally:
            one.remove()


async def test_a_server_that_goes_and_comes_back_is_used_again(redis):
    """[RD-02] Restarted on its port, it serves the next caller; idle connections of before do no harm."""
    async with opened(redis.port) as store:
        assert await put(store)
        redis.kill()
        assert await seconds(store.get("key")) < COSTS
        redis.start()
        _, took = await eventually(lambda: put(store, version=2), SOON)
        assert took < SOON


async def test_a_hung_server_costs_half_a_second_once_and_recovers_at_once(redis):
    """[RD-05] Everybody else is told at once; after SIGCONT the store works within a second."""
    async with opened(redis.port) as store:
        assert await put(store)
        redis.pause()
        try:
            assert await seconds(store.get("key")) < COSTS
            quick = [await seconds(store.get("key")) < COSTS / 10 for _ in range(50)]
            assert quick.count(False) <= 2  # who probes for all
            await asyncio.sleep(1)
        finally:
            redis.go_on()
        record, took = await eventually(lambda: store.get("key"), 2 * SOON)
        assert record == Record(b"x", 1)
        assert took < SOON


async def test_callers_of_a_hung_server_are_each_bounded(redis):
    """[RD-05] Also the many that ask at the same moment, more than there are connections."""
    async with opened(redis.port) as store:
        await store.ping()
        redis.pause()
        try:
            took = await asyncio.gather(*(seconds(store.get("key")) for _ in range(300)))
        finally:
            redis.go_on()
        assert max(took) < COSTS


async def test_a_server_that_answers_late_is_away(redis):
    """[RD-04] Two seconds for each reply: every caller is told within the limit."""
    async with proxy(redis.port) as between, opened(between.port) as store:
        await store.ping()
        between.delay = 2.0
        assert await seconds(store.get("key")) < COSTS
        between.delay = 0.0
        await eventually(store.ping, 3 * SOON)


async def test_a_server_that_takes_its_time_with_every_step_is_away(redis):
    """[RD-04] Each reply is in time, but login, choice of the database and command together are not."""
    redis.ask("CONFIG", "SET", "requirepass", "s3cr3t")
    async with proxy(redis.port) as between:
        between.delay = 0.2
        store = open_store(f"redis://:s3cr3t@127.0.0.1:{between.port}/1")
        assert await seconds(store.get("key")) < COSTS
        await store.close()


async def test_a_lock_whose_holder_could_not_release_it_is_free_soon_afterwards(redis):
    """[RF-17] A release that fails is done when Redis is back, long before the lease is over."""
    async with opened(redis.port) as store:
        async with store.lock("name", lease=15):
            redis.pause()
        redis.go_on()
        started = time.monotonic()
        await eventually(lambda: _hold(store, "name"), 3)
        assert time.monotonic() - started < 3


async def _hold(store, name):
    async with store.lock(name, wait=0.0):
        pass


# -- refusals of the server ----------------------------------------------------------------------------------------


def refuse(*commands):
    """Return a function that makes a server refuse, by its own means."""
    return lambda one: one.ask_all(*commands)


REFUSALS = {
    "RD-15 NOAUTH": refuse(["CONFIG", "SET", "requirepass", "s3cr3t"], ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]),
    "RD-15 NOPERM": refuse(["ACL", "SETUSER", "default", "-evalsha", "-eval"]),
    "RD-13 OOM": refuse(["CONFIG", "SET", "maxmemory-policy", "noeviction"], ["CONFIG", "SET", "maxmemory", "1"]),
    "RD-06 READONLY": refuse(["REPLICAOF", "127.0.0.1", "1"], ["CONFIG", "SET", "replica-read-only", "yes"]),
    "RD-08 NOREPLICAS": refuse(["CONFIG", "SET", "min-replicas-to-write", "1"]),
    "RD-01 MASTERDOWN": refuse(["CONFIG", "SET", "replica-serve-stale-data", "no"], ["REPLICAOF", "127.0.0.1", "1"]),
}  # fmt: skip


@pytest.mark.parametrize("change", REFUSALS.values(), ids=REFUSALS)
async def test_a_server_that_refuses_is_unavailable_and_nothing_is_written(redis, change):
    """Neither a crash nor a wrong answer: the store is away, and its message tells no address and no password."""
    async with opened(redis.port) as store:
        assert await put(store)
        change(redis)
        for _ in range(3):
            assert await seconds(put(store, value=b"y", expected=1, version=2)) < COSTS
        with pytest.raises(StoreUnavailableError):
            await store.ping()  # although some of these still answer


async def test_a_server_without_memory_is_no_readiness_until_it_takes_writes_again(redis):
    """[RD-13] It answers all the while, and nobody else writes."""
    async with opened(redis.port) as store:
        await store.ping()
        redis.ask_all(["CONFIG", "SET", "maxmemory-policy", "noeviction"], ["CONFIG", "SET", "maxmemory", "1"])
        with suppress(StoreUnavailableError):
            await put(store)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await store.ping()
        redis.ask("CONFIG", "SET", "maxmemory", "0")
        await store.ping()
        assert redis.ask("KEYS", f"{store.test_prefix}:*trial*") == []


async def test_an_address_that_leads_to_another_master_is_looked_up_anew(redis):
    """[RD-06] Without Sentinel: the old master has become a replica, and the name now leads to the new one."""
    with server() as new:
        async with proxy(redis.port) as between, opened(between.port) as store:
            assert await put(store)
            between.target = new.port
            redis.ask("REPLICAOF", "127.0.0.1", new.port)
            await increment(store, "count")
            assert new.ask("EXISTS", record_key(store, "count")) == 1


@pytest.mark.skipif(not redis_server.has_tls(), reason="no redis-server with TLS here")
async def test_a_server_that_was_demoted_for_a_moment_may_have_forgotten_locks(redis):
    """[RD-06] While it can be read nothing looks like an outage; who took a lock at the other may be about to write."""
    async with opened(redis.port) as store:
        async with store.lock("name", wait=1) as held:
            assert not held.inherited
        redis.ask("REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(StoreUnavailableError):
            await put(store)
        assert await store.get("key") is None
        redis.ask("REPLICAOF", "NO", "ONE")
        async with store.lock("name", wait=1) as held:
            assert held.inherited


async def test_a_new_certificate_of_the_server_is_taken_and_a_foreign_authority_is_not():
    """[RD-16] After a restart with another certificate the store goes on; who trusts another authority gets nothing."""
    one, folder, authority = redis_server.with_tls()
    url = redis_server.tls_url()
    store, foreign = open_store(url), open_store(url.replace("/ca.pem", "/other-ca.pem"))
    assert await put(store)
    with pytest.raises(StoreUnavailableError):
        await foreign.ping()
    one.kill()
    redis_server.issue(authority, "server", folder)
    one.start()
    await eventually(lambda: put(store, version=2), 3 * SOON)
    await store.close()
    await foreign.close()


@pytest.mark.skipif(not redis_server.has_tls(), reason="no redis-server with TLS here")
@pytest.mark.parametrize("kind", ["redis+sentinel", "redis+cluster"])
async def test_sentinel_and_cluster_speak_tls_as_well(kind):
    """With a certificate of our own to all of them, in one URL."""
    with redis_server.tls_url_of(kind) as url:
        store = open_store(url)
        assert await put(store)
        assert await store.get("key") == Record(b"x", 1)
        await store.close()


@pytest.mark.parametrize("login", [":s3cr3t@", "user-name:s3cr3t@"], ids=["RD-15 WRONGPASS", "RD-15 unknown user"])
async def test_a_wrong_password_is_told_without_it(redis, login):
    """Nor does the store show it in any other way."""
    async with opened(redis.port, login=login) as store:
        assert await seconds(store.get("key")) < COSTS
        assert "s3cr3t" not in repr(store) + repr(vars(store)) + repr(store._target)


async def test_the_right_password_opens(redis):
    """Percent-encoded in the URL, as any character of it may be."""
    redis.ask("CONFIG", "SET", "requirepass", "s3cr3t@/:?")
    async with opened(redis.port, login=":s3cr3t%40%2F%3A%3F@") as store:
        assert await put(store)


async def test_an_eviction_policy_that_drops_sessions_is_warned_of(redis, caplog):
    """[RD-13] A limit on memory with a policy that evicts ends sessions silently; the log says so."""
    redis.ask("CONFIG", "SET", "maxmemory", "100mb")
    redis.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    async with opened(redis.port) as store:
        with caplog.at_level(logging.WARNING):
            assert await put(store)
    assert [record.getMessage() for record in caplog.records] == ["store_evicts_records"]


# -- what stands in Redis is not ours ------------------------------------------------------------------------------

RECORD = 67  # bytes before the value


def changed(at, to):
    """Return a function that changes some bytes of a record."""
    return lambda one, key: one.ask("SETRANGE", key, at, to)


def shortened(length):
    """Return a function that cuts a record."""
    return lambda one, key: one.ask("SET", key, one.ask("GETRANGE", key, 0, length - 1))


def replaced(*command):
    """Return a function that puts something else in the record's place."""

    def change(one, key):
        one.ask("DEL", key)
        one.ask(command[0], key, *command[1:])

    return change


DAMAGE = {
    "RD-10 list": replaced("RPUSH", "x"),
    "RD-10 hash": replaced("HSET", "a", "b"),
    "RD-10 empty": replaced("SET", ""),
    "RD-10 foreign": replaced("SET", "x" * 100),
    "RD-10 cut in the head": shortened(30),
    "RD-10 cut in the value": shortened(RECORD + 3),
    "RD-10 version changed": changed(10, "7"),
    "RD-10 version no number": changed(10, "x"),
    "RD-10 expiry changed": changed(25, "7"),
    "RD-10 bit flip": changed(RECORD + 2, "\x01"),
    "RD-10 huge": lambda one, key: one.ask("SETRANGE", key, 600_000_00, "x"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_a_damaged_record_is_reported_and_never_written_over(shared, damage):
    """Neither its value nor another one is returned, and an operator finds it as it was."""
    async with opened(shared.port, "&timeout=1") as store:
        await put(store, value=b"secret value", version=5)
        key = record_key(store, "key")
        damage(shared, key)
        before = shared.ask("DUMP", key)
        with pytest.raises(StoreBrokenError):
            await store.get("key")
        with suppress(StoreBrokenError):
            assert not await put(store, version=6)
        assert shared.ask("DUMP", key) == before
        assert await put(store, "other")


async def test_a_record_copied_to_another_key_is_not_ours(shared):
    """[RD-11] What was written for one key is not returned for another."""
    async with opened(shared.port) as store:
        await put(store, "mine")
        shared.ask("COPY", record_key(store, "mine"), record_key(store, "yours"))
        with pytest.raises(StoreBrokenError):
            await store.get("yours")


async def test_a_flush_is_noticed_and_leaves_a_working_store(redis):
    """[RD-17] Records are gone, not an error, and everybody is told that anything may have changed."""
    async with opened(redis.port) as store:
        seen = []
        store.watch(seen.append)
        await put(store)
        await asyncio.sleep(0.5)
        redis.ask("FLUSHALL")
        await until(lambda: seen == [""], SOON)
        assert await store.get("key") is None
        assert await put(store, version=2)


async def test_a_lease_whose_key_an_operator_deletes_is_lost(redis):
    """[RD-20] The holder notices at its next renewal, and its release does not end the next holder's lock."""
    async with opened(redis.port) as store, opened(redis.port) as other:
        other._target = store._target
        async with store.lock("name", lease=0.6) as lease:
            assert not lease.lost
            redis.ask("FLUSHALL")
            async with other.lock("name", lease=10, wait=1) as next_one:
                await until(lambda: lease.lost, SOON)
                assert not next_one.lost


async def test_a_lock_that_would_outlive_its_lease_does_not_count(redis):
    """[RD-18] The host's clock was set back an hour: the lock of a dead holder does not last an hour longer."""
    async with opened(redis.port) as store:
        for life in ({"px": 3_600_000}, {}):
            redis.ask(
                "SET", f"{store.test_prefix}:{{-}}l:name", "15000:dead", *[x for pair in life.items() for x in pair]
            )
            async with store.lock("name", wait=0.2) as lease:
                assert not lease.lost


@pytest.mark.parametrize("hours", [-1, 1], ids="RD-18 {} h".format)
async def test_the_clock_of_the_redis_host_does_not_matter(shared, hours):
    """Lives are told as durations, moments are this host's: a clock that is off by an hour on either side is no harm."""
    async with opened(shared.port) as store:
        store._clock = lambda: time.time() + 3600 * hours
        await put(store, expires_at=store._clock() + 30)
        assert (await store.get("key"))[:2] == (b"x", 1)
        assert 25_000 < shared.ask("PTTL", record_key(store, "key")) <= 30_000
        assert await store.keys("") == ["key"]


# -- names ---------------------------------------------------------------------------------------------------------


async def test_a_name_that_is_looked_up_for_longer_than_is_waited_leaves_no_error_behind(monkeypatch):
    """[RD-01] The lookup fails when nobody waits any more: one is under way at a time, and asyncio has no complaint."""
    asked = []

    async def late(host, *_arguments, **_options):
        asked.append(host)
        await asyncio.sleep(0.3)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", late)
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with opened(6379, "&timeout=0.05", host="redis.test") as store:
        for _ in range(3):
            with suppress(StoreUnavailableError):
                await store.ping()
        assert len(asked) == 1
        await until(lambda: not store._connection()._lookups._under_way, SOON)
    gc.collect()
    assert complaints == []


async def test_a_name_with_several_addresses_is_tried_at_each(shared, monkeypatch):
    """[RD-01] The first one refuses, the second one answers."""

    async def two(*_arguments, **_options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.9", "127.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
    async with opened(shared.port, host="redis.test") as store:
        await store.ping()


# -- the wire ------------------------------------------------------------------------------------------------------

HARMS = {
    "RD-19 reset": lambda _: b"",
    "RD-19 half a reply": lambda data: data[: len(data) // 2],
    "RD-19 not RESP": lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "RD-19 endless length": lambda _: b"$9999999999\r\n",
    "RD-19 negative length": lambda _: b"*-7\r\n",
    "RD-19 zeroes": lambda data: bytes(len(data)),
    "RD-19 another type": lambda _: b"*2\r\n:1\r\n:2\r\n",
    "RD-19 a word": lambda _: b"+PONG\r\n",
    "RD-19 nested": lambda _: b"*1\r\n" * 50 + b":1\r\n",
    "RD-19 an error": lambda _: b"-ERR 127.0.0.1 user-name s3cr3t\r\n",
    "RD-19 a strange redirection": lambda _: b"-MOVED here there\r\n",
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
async def test_a_garbled_reply_is_an_outage_and_the_next_one_is_right(shared, harm):
    """Whatever comes, no foreign exception, no wrong record, and the connection is not used again."""
    async with proxy(shared.port) as between, opened(between.port) as store:
        await put(store, "one", b"1")
        await put(store, "two", b"2")
        between.harm = harm
        for operation in (lambda: put(store, "one", expected=1, version=2), store.ping, lambda: store.keys("")):
            (answer,) = await asyncio.gather(operation(), return_exceptions=True)
            assert answer in (None, [], False) or isinstance(answer, StoreUnavailableError), answer
            assert not any(secret in str(answer) for secret in SECRETS)
        with pytest.raises((StoreUnavailableError, StoreBrokenError)):
            await store.get("one")
        between.harm = None
        record, _ = await eventually(lambda: store.get("two"), 3)
        assert record == Record(b"2", 1)


@pytest.mark.parametrize("seed", range(2), ids="RD-14 seed {}".format)
async def test_replies_never_cross_when_callers_are_cancelled(shared, seed):
    """With 100 ms on the way and cancellations at any moment every answer belongs to its question."""
    chance = random.Random(seed)  # noqa: S311
    async with proxy(shared.port) as between, opened(between.port, "&timeout=1") as store:
        names = [f"name{at}" for at in range(20)]
        await asyncio.gather(*(put(store, name, name.encode()) for name in names))
        between.delay = 0.1
        answered = 0

        async def work(name):
            nonlocal answered
            assert await store.get(name) == Record(name.encode(), 1)
            answered += 1

        for _ in range(12):
            tasks = [asyncio.create_task(work(name)) for name in names]
            for task in tasks[::2]:
                asyncio.get_running_loop().call_later(chance.random() * 0.25, task.cancel)
            for task in await asyncio.gather(*tasks, return_exceptions=True):
                assert task is None or isinstance(task, (asyncio.CancelledError, StoreUnavailableError)), task
        assert answered > 100


async def test_a_write_whose_answer_was_lost_is_done_once_and_said_to_be(shared):
    """[RD-19] The reply is cut off, the write is sent again: it happened, once, and others hear of it once."""
    async with proxy(shared.port) as between, opened(between.port) as store:
        other = open_store(f"redis://127.0.0.1:{shared.port}/0?prefix={store.test_prefix}")
        seen = []
        await other.ping()
        other.watch(seen.append)
        await put(store)
        await until(lambda: seen == ["key"], SOON)
        for operation, answer in (
            (lambda: put(store, value=b"y", expected=1, version=2), Record(b"y", 2)),
            (lambda: store.delete("key", expected=2), None),
        ):
            cuts = iter([lambda _: b""])
            between.harm = lambda data, cuts=cuts: next(cuts, lambda data: data)(data)
            assert await operation()
            assert await store.get("key") == answer
        await asyncio.sleep(0.6)
        assert seen == ["key"] * 3
        await other.close()


async def test_no_command_is_without_a_time_out():
    """A server that takes connections and never says a word keeps nobody for longer than the limit."""
    taken = []
    mute = await asyncio.start_server(lambda reader, writer: taken.append((reader, writer)), "127.0.0.1", 0)
    port = mute.sockets[0].getsockname()[1]
    async with opened(port, login=":s3cr3t@") as store:
        store.watch(lambda _: None)
        for operation in (store.ping, lambda: store.get("a"), lambda: put(store), lambda: store.delete("a"),
                          lambda: store.keys(""), lambda: _hold(store, "name")):  # fmt: skip
            await asyncio.sleep(0.3)
            assert await seconds(operation()) < COSTS
    for _, writer in taken:
        writer.transport.abort()
    mute.close()


# -- word of changes -----------------------------------------------------------------------------------------------


async def test_changes_arrive_at_once_and_also_without_the_channel(shared):
    """[ID-05] By pub/sub within moments; with its connection killed over and over, by the log within a second."""
    async with opened(shared.port) as one:
        two = open_store(f"redis://127.0.0.1:{shared.port}/0?prefix={one.test_prefix}")
        seen = []
        await two.ping()
        two.watch(seen.append)
        await until(lambda: shared.ask("PUBSUB", "NUMSUB", f"{one.test_prefix}:0:changes")[1] == 1, SOON)
        started = time.monotonic()
        await put(one, "first")
        await until(lambda: seen == ["first"], SOON)
        assert time.monotonic() - started < 0.2
        for number in range(5):
            shared.ask("CLIENT", "KILL", "TYPE", "pubsub")
            seen.clear()
            await put(one, f"key{number}")
            await until(lambda number=number: seen == [f"key{number}"], SOON)
        await asyncio.sleep(0.6)
        assert seen == ["key4"]
        await two.close()


async def test_changes_that_were_missed_in_an_outage_are_told_by_name_afterwards(redis):
    """A watcher that could not reach Redis for a while hears what it missed; nobody has to doubt everything."""
    async with proxy(redis.port) as between, opened(between.port) as one:
        two = open_store(f"redis://127.0.0.1:{redis.port}/0?prefix={one.test_prefix}")
        seen = []
        await one.ping()
        one.watch(seen.append)
        await asyncio.sleep(0.1)
        between.harm = lambda _: b""
        await put(two, "missed")
        await asyncio.sleep(0.6)
        assert seen == []
        between.harm = None
        await until(lambda: seen == ["missed"], 2 * SOON)
        await two.close()


async def test_idle_watchers_ask_little(shared):
    """A store that nobody uses costs a few commands a second, whatever was kept in it."""
    async with opened(shared.port) as store:
        store.watch(lambda _: None)
        await put(store)
        before = shared.info("stats")["total_commands_processed"]
        await asyncio.sleep(1)
        assert shared.info("stats")["total_commands_processed"] - before < 30


# -- replicas ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replicated():
    """A master with a replica and Sentinels; the last test kills the master."""
    one = Replicated()
    try:
        yield one.start().ready()
    finally:
        one.remove()


async def test_a_write_that_no_replica_has_is_done_counted_and_logged(replicated, caplog):
    """[RD-07] The master has it, so it is not denied; whoever looks at the log or the count knows of the risk."""
    store = open_store(replicated.url)
    assert await put(store)
    assert store.unreplicated == 0
    replicated.replica.pause()
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert await put(store, expected=1, version=2)
    assert time.monotonic() - started < 2.2
    replicated.replica.go_on()
    assert store.unreplicated == 1
    assert [record.getMessage() for record in caplog.records] == ["store_write_not_replicated"]
    await store.close()


async def test_a_demoted_master_is_left_for_the_new_one(replicated):
    """[RD-06] A failover by hand, the old master stays up as a replica: the next writes go to the new one.

    Locks may be lost in it, although nothing failed for long.
    """
    store = open_store(replicated.url)
    assert await put(store)
    async with store.lock("name", wait=1) as held:
        assert not held.inherited
    old, new = replicated.master, replicated.replica
    redis_server.until(lambda: replicated.sentinels[0].ask("SENTINEL", "FAILOVER", redis_server.MASTER), 12)
    await until(lambda: replicated.master is new, 12)
    old.ask("REPLICAOF", "127.0.0.1", new.port)  # Sentinel does so itself, after a while
    _, took = await eventually(lambda: increment(store, "count"), 12)
    assert took < SOON
    assert new.ask("EXISTS", f"{store._target.prefix}:{{-}}r:count") == 1
    async with store.lock("name", wait=1) as held:
        assert held.inherited
    await store.close()


async def test_a_failover_loses_nothing_that_was_acknowledged(replicated):
    """[RD-06] [RD-07] The master is killed right after a write: a few seconds later its replica has it, and takes more."""
    store = open_store(replicated.url)
    master = replicated.master
    assert await put(store, value=b"rotated")
    assert store.unreplicated == 0
    master.kill()
    record, took = await eventually(lambda: store.get("key"), 12)
    assert record == Record(b"rotated", 1)
    _, more = await eventually(lambda: put(store, expected=1, version=2), 12)
    assert took + more < 12
    async with store.lock("name", wait=1) as held:
        assert held.inherited  # the new one may not have been told of a lock
    await store.close()


@pytest.mark.parametrize(("option", "counted"), [("", 0), ("&wait=0", 0), ("&wait=1", 1)])
async def test_replicas_are_waited_for_where_there_are_some_or_it_is_asked_for(shared, option, counted):
    """A single server is not waited for; `wait=1` insists, and every write that is alone is counted."""
    async with opened(shared.port, option) as store:
        assert await put(store)
        assert store.unreplicated == counted


# -- a cluster -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster():
    """Three masters of one's own."""
    one = redis_server.Cluster()
    try:
        yield one.start()
    finally:
        one.remove()


async def test_a_cluster_keeps_what_belongs_together_on_one_slot_and_survives_a_move(cluster):
    """[RD-09] Record, tombstone and lock of a tag are on one node; a moved slot is found; a lost node fails by name."""
    store = open_store(cluster.url)
    await put(store, "session:{tag}")
    first, *_ = cluster.nodes
    slot = first.ask("CLUSTER", "KEYSLOT", "tag")
    prefix = store._target.prefix
    for name in (
        f"{prefix}:{{tag}}r:session:{{tag}}",
        f"{prefix}:{{tag}}t:session:{{tag}}",
        f"{prefix}:{{tag}}l:chain:{{tag}}:idp",
    ):
        assert first.ask("CLUSTER", "KEYSLOT", name) == slot
    ids = {node: node.ask("CLUSTER", "MYID").decode() for node in cluster.nodes}
    owner = next(node for node in cluster.nodes if node.ask("CLUSTER", "COUNTKEYSINSLOT", slot))
    target = next(node for node in cluster.nodes if node is not owner)
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner])
    owner.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    assert (await store.get("session:{tag}")).version == 1
    assert await store.get("new:{tag}") is None  # ASK
    with suppress(StoreUnavailableError):  # TRYAGAIN: what takes two keys has to wait for the end of the move
        await increment(store, "new:{tag}")
    names = owner.ask("CLUSTER", "GETKEYSINSLOT", slot, 10)
    owner.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 1000, "KEYS", *names)
    for node in cluster.nodes:
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    assert (await store.get("session:{tag}")).version == 1  # MOVED
    assert await put(store, "session:{tag}", expected=1, version=2)
    await increment(store, "new:{tag}")
    others = [f"{at}:{{{at}}}" for at in range(30)]
    for name in others:
        await put(store, name)
    assert await store.keys("") == sorted([*others, "new:{tag}", "session:{tag}"])
    target.kill()
    with pytest.raises(StoreUnavailableError):
        await store.get("session:{tag}")
    await store.close()
