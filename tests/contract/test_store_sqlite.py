"""The SQLite store against what happens to files: crashes, damage, foreign hands, full disks."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sqlite3
import stat
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from sidecar.errors import StoreBrokenError, StoreUnavailableError
from sidecar.stores import leases, open_store, sqlite, sqlite_file, writes
from sidecar.stores.contract import TOMBSTONE_LIFE, Record
from sidecar.stores.leases import Taken
from sidecar.stores.sqlite import SqliteRecords
from tests.support.other_process import other_process

KILLS = int(os.environ.get("SIDECAR_KILLS", "20"))
RECORDS = {f"session/{n:02}": Record(bytes([n]) * 700, n + 1) for n in range(30)}


@pytest.fixture
def path(tmp_path):
    """Where the store's file is to be."""
    return tmp_path / "store.db"


@pytest.fixture
async def store(path):
    """Give an opened, empty store."""
    opened = open_store(f"sqlite:{path}")
    await opened.ping()
    yield opened
    await opened.close()


def fill(path):
    """Make a store of some pages."""
    with closing(SqliteRecords(path)) as records:
        for key, record in RECORDS.items():
            assert records.put(key, record.value, None, record.version, None)


def read(path):
    """Open the store and return all that is in it."""
    with closing(SqliteRecords(path)) as records:
        return {key: records.get(key) for key in records.keys("")}


# -- crashes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [KILLS], ids="ST-01 {} kills".format)
async def test_a_killed_writer_loses_nothing_that_it_acknowledged(path, kills):
    """After `kill -9` at a random point the store is whole, ready at once, and holds the last acknowledged version."""
    chance = random.Random(kills)  # noqa: S311
    acknowledged = 0
    for _ in range(kills):
        async with other_process(f"sqlite:{path}") as other:
            other.start("write", "key", 2000)
            acknowledged = max(acknowledged, int(await other.line()))
            await asyncio.sleep(chance.random() * 0.25)
            other.process.kill()
            while (line := await other.line()).endswith(b"\n"):
                acknowledged = int(line)
        started = time.monotonic()
        record = await asyncio.to_thread(lambda: read(path)["key"])
        assert time.monotonic() - started < 1
        assert acknowledged <= record.version <= acknowledged + 1
        assert int.from_bytes(record.value[:8], "big") == record.version - 1
        acknowledged = record.version
    assert acknowledged > kills


async def test_a_cancelled_caller_s_operation_completes_or_never_begins(path, store):
    """What runs on the thread is finished, what still waits is dropped; neither is half done."""
    with closing(sqlite3.connect(path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        running = asyncio.create_task(store.put("running", b"x", expected=None, version=1))
        waiting = asyncio.create_task(store.put("waiting", b"x", expected=None, version=1))
        await asyncio.sleep(0.1)
        running.cancel()
        waiting.cancel()
        await asyncio.wait([running, waiting])
        blocker.execute("ROLLBACK")
    assert await store.get("running") == Record(b"x", 1)
    assert await store.get("waiting") is None


# -- damage --------------------------------------------------------------------------------------------------------


def foreign(path):
    """Put another program's database there."""
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE records (key, value)")
        connection.commit()
    path.chmod(0o600)


def pragma(name, value):
    """Return a function that sets a number in the file's head."""

    def change(path):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA {name} = {value}")
            connection.commit()

    return change


def statement(*texts):
    """Return a function that changes the file behind our back, by SQLite's own means."""

    def change(path):
        with closing(sqlite3.connect(path)) as connection:
            for text in texts:
                connection.execute(text)
            connection.commit()

    return change


def orphan(path):
    """Leave a log without its database."""
    path.rename(path.with_name("elsewhere"))
    path.with_name(path.name + "-wal").write_bytes(b"x" * 4096)
    path.with_name(path.name + "-wal").chmod(0o600)


DAMAGE = {
    "ST-05 zero length": (lambda path: os.truncate(path, 0), "is empty"),
    "ST-05 cut in the head": (lambda path: os.truncate(path, 50), "or a piece of one"),
    "ST-05 cut after a page": (lambda path: os.truncate(path, 4096), "damaged"),
    "ST-05 cut in a page": (lambda path: os.truncate(path, path.stat().st_size - 100), "damaged"),
    "ST-05 text": (lambda path: path.write_text("not a database\n" * 1000), "damaged or not a database"),
    "ST-05 zeroes": (lambda path: path.write_bytes(bytes(8192)), "damaged or not a database"),
    "ST-05 log without database": (orphan, "is missing but its log files are there"),
    "ST-05 version from the future": (pragma("user_version", 99), "newer version"),
    "ST-05 no version": (pragma("user_version", 0), "damaged"),
    "ST-05 foreign database": (foreign, "not a store of this program"),
    "ST-05 foreign application": (pragma("application_id", 1), "not a store of this program"),
    "ST-05 value changed": (statement("UPDATE records SET value = x'00' WHERE version = 3"), "is damaged"),
    "ST-05 version changed": (statement("UPDATE records SET version = 1000 WHERE version = 3"), "is damaged"),
    "ST-05 key changed": (statement("UPDATE records SET key = 'a' WHERE version = 3"), "is damaged"),
    "ST-05 expiry changed": (statement("UPDATE records SET expires_at = 9e9 WHERE version = 3"), "is damaged"),
    "ST-05 value of another type": (statement("UPDATE records SET value = 'text' WHERE version = 3"), "is damaged"),
    "ST-05 page without an owner": (
        statement("PRAGMA writable_schema = ON", "DELETE FROM sqlite_schema WHERE name = 'records_by_expiry'"),
        "is damaged",
    ),
    "ST-05 table missing": (statement("DROP TABLE records"), "damaged"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
async def test_a_damaged_or_foreign_file_is_refused_and_never_written(path, damage, message):
    """The refusal says what is wrong and what to do; every file stays as it was found."""
    fill(path)
    damage(path)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    store = open_store(f"sqlite:{path}")
    for operation in (store.ping, lambda: store.put("key", b"x", expected=None, version=1)):
        with pytest.raises(StoreBrokenError, match=message):
            await operation()
    await store.close()
    assert before == {file: file.read_bytes() for file in before}


@pytest.mark.parametrize(
    "change", [pragma("user_version", 99), pragma("application_id", 1)], ids=["ST-05 newer", "ST-05 foreign"]
)
def test_a_refused_file_with_an_open_log_is_left_with_it(path, change):
    """Also what a crash left in the log stays there: refusing a file does not fold its log into it."""
    with closing(SqliteRecords(path)) as records:
        records.put("key", b"x", None, 1, None)
        change(path)
        crashed = path.parent / "crashed"
        crashed.mkdir(mode=0o700)
        for suffix in ("", "-wal"):
            shutil.copy2(path.with_name(path.name + suffix), crashed)
    before = {file: file.read_bytes() for file in crashed.iterdir()}
    with pytest.raises(StoreBrokenError, match=r"newer version|not a store"):
        read(crashed / path.name)
    assert len(before) == 2
    assert before == {file: file.read_bytes() for file in before}


def flips():
    """Return every byte of the head, and many from everywhere."""
    chance = random.Random(5)  # noqa: S311
    return [*range(100), *(chance.randrange(100, 40_000) for _ in range(200))]


@pytest.mark.parametrize("offsets", [flips()], ids=["ST-05 300 flips"])
def test_a_flipped_byte_is_refused_or_harmless(path, offsets):
    """No flipped byte changes, hides or invents a record: the file is refused, or all of it is as it was."""
    fill(path)
    sound = path.read_bytes()
    refused = 0
    for offset in offsets:
        damaged = bytearray(sound)
        damaged[offset % len(sound)] ^= 1 << offset % 8
        path.write_bytes(damaged)
        try:
            assert read(path) == RECORDS
        except (StoreBrokenError, StoreUnavailableError):
            refused += 1
            assert path.read_bytes() == damaged
    assert refused > 100


def test_a_record_damaged_while_in_use_is_not_returned(path):
    """The checksum is looked at with every read."""
    fill(path)
    with closing(SqliteRecords(path)) as records:
        assert records.get("session/02") == RECORDS["session/02"]
        statement("UPDATE records SET value = x'00' WHERE version = 3")(path)
        with pytest.raises(StoreBrokenError, match="damaged"):
            records.get("session/02")
        assert records.get("session/03") == RECORDS["session/03"]


def test_a_file_that_goes_or_changes_while_in_use_is_noticed(path):
    """Nothing is written into a file that nobody will find again, and no new one is made in its place."""
    fill(path)
    with closing(SqliteRecords(path)) as records:
        records.ping()
        path.rename(path.with_name("elsewhere"))
        for _ in range(2):
            with pytest.raises(StoreBrokenError, match=r"moved or replaced|has disappeared|log files are there"):
                records.put("key", b"x", None, 1, None)
        assert not path.exists()


@pytest.mark.parametrize("since", ["another process", "this one"])
def test_a_backup_restored_into_the_file_in_use_is_noticed(path, since):
    """However much is written after it: anything may have changed, the sessions that were ended since among it."""
    with closing(SqliteRecords(path)) as one, closing(SqliteRecords(path)) as two:
        writer, name = (one, "new") if since == "another process" else (two, "lost")
        two.ping()
        one.put("kept", b"x", None, 1, None)
        backup = sqlite3.connect(":memory:")
        with closing(sqlite3.connect(path)) as file:
            file.backup(backup)
        for number in range(3):
            writer.put(f"lost/{number}", b"x", None, 1, None)
        assert "kept" in two.changes()
        with closing(sqlite3.connect(path)) as file, closing(backup):
            backup.backup(file)
        for number in range(6):
            writer.put(f"{name}/{number}", b"x", None, 1, None)
        assert (two.changes(), two.changes()) == ([""], [])


# -- foreign hands -------------------------------------------------------------------------------------------------


def link(path):
    """Replace the file by a link to it."""
    path.rename(path.with_name("real.db"))
    path.symlink_to(path.with_name("real.db"))


def dangling(path):
    """Leave a link to nowhere."""
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def special(path):
    """Put a pipe there."""
    path.unlink()
    os.mkfifo(path, 0o600)


def folder(path):
    """Put a directory there."""
    path.unlink()
    path.mkdir()


HANDS = {
    "ST-08 readable by all": (lambda path: path.chmod(0o644), "chmod 600"),
    "ST-08 readable by the group": (lambda path: path.chmod(0o640), "chmod 600"),
    "ST-08 writable by others": (lambda path: path.chmod(0o602), "chmod 600"),
    "ST-08 link": (link, "must be a plain file"),
    "ST-08 link to nowhere": (dangling, "must be a plain file"),
    "ST-08 pipe": (special, "must be a plain file"),
    "ST-08 directory": (folder, "must be a plain file"),
    "ST-08 log is a link": (lambda path: path.with_name("store.db-wal").symlink_to(path), "must be a plain file"),
    "ST-08 open directory": (lambda path: path.parent.chmod(0o777), "everyone can write"),
}


@pytest.mark.parametrize(("change", "message"), HANDS.values(), ids=HANDS)
def test_a_file_that_others_can_reach_is_refused(path, change, message):
    """The message names the file and the remedy."""
    fill(path)
    change(path)
    with pytest.raises(StoreBrokenError, match=message):
        read(path)
    path.parent.chmod(0o700)


def test_a_missing_directory_is_refused(tmp_path):
    """A directory is never made: a mistyped path would start an empty store."""
    with pytest.raises(StoreBrokenError, match="not an existing directory"):
        read(tmp_path / "missing" / "store.db")


def test_a_sticky_directory_is_accepted(path):
    """In a directory like /tmp others cannot replace our files."""
    path.parent.chmod(0o1777)
    fill(path)
    assert read(path) == RECORDS


def test_all_files_belong_to_the_owner_alone_whatever_the_umask(path):
    """The log and the index of the log are as private as the database."""
    before = os.umask(0)
    try:
        fill(path)
        with closing(SqliteRecords(path)) as records:
            records.put("key", b"x", None, 1, None)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}


async def test_openers_at_once_make_one_file(path):
    """[ST-07] Whoever is slower takes the file of the faster one; no draft is left."""
    stores = [open_store(f"sqlite:{path}") for _ in range(6)]
    done = await asyncio.gather(*(store.put("key", b"x", expected=None, version=1) for store in stores))
    assert sorted(done) == [False] * 5 + [True]
    for store in stores:
        await store.close()
    assert [file.name for file in path.parent.iterdir()] == ["store.db"]


# -- a disk that refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5000, 16_384], ids="ST-03 creation at {} bytes".format)
async def test_a_full_disk_at_the_first_start_leaves_nothing(path, size):
    """No half a database stays behind, and with room the start succeeds without a restart."""
    async with other_process(f"sqlite:{path}") as other:
        await other("limit_files", size)
        assert await other("ping") == "StoreUnavailableError"
        assert list(path.parent.iterdir()) == []
        await other("limit_files", None)
        assert await other("ping") is None
        await other("exit")
    assert [file.name for file in path.parent.iterdir()] == ["store.db"]


@pytest.mark.parametrize("rooms", [(0, 10, 4096, 8192, 20_000, 65_536)], ids=["ST-03 each point of a write"])
async def test_a_full_disk_keeps_the_old_value_and_recovers(path, rooms):
    """At each point of a write: the old value is intact, the error has a name, room is enough to go on."""
    fill(path)
    async with other_process(f"sqlite:{path}") as other:
        await other("put", "key", "00" * 3000, None, 1)
        wal = path.with_name("store.db-wal")
        for room in rooms:
            await other("limit_files", wal.stat().st_size + room)
            assert await other("put", "key", "ff" * 100_000, 1, 2) == "StoreUnavailableError"
            assert await other("get", "key") == ["00" * 3000, 1]
            await other("limit_files", None)
        assert await other("put", "key", "ff" * 100_000, 1, 2) is True
        await other.kill()
    assert read(path) == RECORDS | {"key": Record(b"\xff" * 100_000, 2)}


@pytest.mark.parametrize("write", ["put", "lock"])
async def test_a_full_disk_is_no_readiness_until_it_takes_what_it_refused(path, write):
    """[ST-03] It can still be read, and small things may still fit: what failed is tried anew, in its size."""
    async with other_process(f"sqlite:{path}") as other:
        await other("put", "key", "00" * 3000, None, 1)
        assert await other("ping") is None
        wal = path.with_name("store.db-wal").stat().st_size
        await other("limit_files", wal)
        failing = ("put", "key", "ff" * 100_000, 1, 2) if write == "put" else ("lock", "name", 15, 1)
        assert await other(*failing) == "StoreUnavailableError"
        assert [await other("ping"), await other("ping")] == ["StoreUnavailableError"] * 2
        await other("limit_files", wal + 30_000)
        assert await other("ping") == ("StoreUnavailableError" if write == "put" else None)
        await other("limit_files", None)
        assert await other("ping") is None
        await other("exit")
    assert read(path) == {"key": Record(b"\0" * 3000, 1)}
    assert columns(path, "SELECT count(*) FROM locks") == [(0,)]


@pytest.mark.parametrize("write", ["put", "delete"])
async def test_a_trial_takes_as_many_pages_as_the_write_that_failed(path, store, write, monkeypatch):
    """[ST-03] A disk that the store itself has filled lacks only some: a smaller trial would pass for readiness."""
    log = path.with_name("store.db-wal")
    sizes = [log.stat().st_size]
    for number in range(80):
        await store.put(f"session/{number * 61 % 80:02}", b"x" * 700, expected=None, version=1)
        sizes.append(log.stat().st_size)

    def refuse(*_):
        raise StoreUnavailableError("full")

    with monkeypatch.context() as full:
        full.setattr(store._disk, write, refuse)
        with pytest.raises(StoreUnavailableError):
            await (store.put("new", b"x" * 700, expected=None, version=1) if write == "put" else store.delete("new"))
    await store.ping()
    assert log.stat().st_size - sizes[-1] >= max(after - before for before, after in pairwise(sizes))


async def test_a_trial_of_a_store_that_hangs_is_waited_for_shortly_and_made_once(path, monkeypatch):
    """Who asks whether the store is ready gets an answer, and does not make its queue longer."""
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.3)
    monkeypatch.setattr(writes, "PATIENCE", 0.05)
    store = open_store(f"sqlite:{path}")
    await store.put("key", b"x", expected=None, version=1)
    trials = []
    take = store._disk.take
    monkeypatch.setattr(store._disk, "take", lambda *arguments: trials.append(arguments) or take(*arguments))
    with closing(sqlite3.connect(path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError):
            await store.put("key", b"y", expected=1, version=2)
        answers = await asyncio.gather(*(store.ping() for _ in range(4)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailableError] * 4
        assert len(trials) == 1
    await store._worker.writes._trial
    await store.ping()
    await store.close()


async def test_a_file_that_stays_locked_is_unavailable_and_the_loop_goes_on(path, monkeypatch):
    """Waiting for the disk never holds up the event loop, ends, and leaves nothing behind."""
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.3)
    store = open_store(f"sqlite:{path}")
    await store.put("key", b"x", expected=None, version=1)
    with closing(sqlite3.connect(path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        put = asyncio.create_task(store.put("key", b"y", expected=1, version=2))
        turns = 0
        while not put.done():
            await asyncio.sleep(0.005)
            turns += 1
        with pytest.raises(StoreUnavailableError, match="SQLITE_BUSY"):
            await put
        assert turns > 10
        assert await store.get("key") == Record(b"x", 1)
    assert await store.put("key", b"y", expected=1, version=2)
    await store.close()


async def test_a_holder_that_could_not_renew_its_lease_is_told_from_one_that_let_go(path, monkeypatch):
    """Nothing could be written for longer than the lease: who takes the lock then learns that its holder may be alive."""
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.05)
    one, two = open_store(f"sqlite:{path}"), open_store(f"sqlite:{path}")
    await one.ping()
    with closing(sqlite3.connect(path, isolation_level=None)) as blocker:
        async with one.lock("name", lease=0.3) as held:
            blocker.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(0.5)
            blocker.execute("ROLLBACK")
            async with two.lock("name", wait=2) as taken:
                assert (held.lost, taken.lost, taken.inherited) == (True, False, True)
                taken.waited_out()
        async with two.lock("name", wait=2) as taken:
            assert not taken.inherited
    await one.close()
    await two.close()


async def test_a_holder_renews_its_lease_as_soon_as_the_store_is_back(path, monkeypatch):
    """A renewal that failed is not put off by a third of the lease, which may be all that is left of it."""
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.0)
    monkeypatch.setattr(leases, "RENEW_AGAIN", 0.02)
    store = open_store(f"sqlite:{path}")
    async with store.lock("name", lease=1.2) as held:
        with closing(sqlite3.connect(path, isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(0.5)  # the first renewal, at 0.4, failed; the next one would be at 0.8
            blocker.execute("ROLLBACK")
        await asyncio.sleep(0.15)
        assert columns(path, "SELECT expires_at FROM locks")[0][0] > time.monotonic() + 0.9
        assert not held.lost
    await store.close()


# -- schema --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sound", [True, False], ids=["ST-13 sound", "ST-13 failing"])
def test_a_migration_happens_whole_or_not_at_all(path, monkeypatch, sound):
    """Records survive it; where a later statement fails, the file is as before and the old program reads it."""
    fill(path)
    last = "CREATE TABLE other (key TEXT)" if sound else "CREATE TABLE records (key TEXT)"
    later = (*sqlite_file.MIGRATIONS, ("ALTER TABLE locks ADD COLUMN host TEXT",), (last,))
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_file, "MIGRATIONS", later)
        if sound:
            assert read(path) == RECORDS
        else:
            with pytest.raises(StoreBrokenError):
                read(path)
    if sound:
        with pytest.raises(StoreBrokenError, match="newer version"):
            read(path)
    else:
        assert read(path) == RECORDS


# -- time ----------------------------------------------------------------------------------------------------------


class Clock:
    now = 1_700_000_000.0

    def __call__(self):
        return self.now


def columns(path, text):
    """Return what another reader sees in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(text).fetchall()


def test_an_expired_record_loses_its_value_first_and_its_version_a_day_later(path):
    """Nothing sealed stays behind longer than a sweep; no row stays for ever."""
    clock = Clock()
    with closing(SqliteRecords(path, clock)) as records:
        records.put("key", b"sealed", None, 5, clock.now + 10)
        clock.now += 70
        records.put("other", b"x", None, 1, None)
        assert columns(path, "SELECT value, version FROM records WHERE key = 'key'") == [(None, 5)]
        assert not records.put("key", b"x", None, 5, None)
        assert read(path)  # the swept rows carry right checksums
        clock.now += TOMBSTONE_LIFE
        records.put("other", b"x", 1, 2, None)
        assert columns(path, "SELECT key FROM records") == [("other",)]
        assert records.put("key", b"x", None, 1, None)


@pytest.mark.parametrize("step", [-3600, -0.01, 3600], ids=["ST-10 back", "ST-10 hardly back", "ST-10 forward"])
def test_a_lock_stays_its_holder_s_although_the_clock_was_set(path, step):
    """Who holds it does not go by that clock: it would go on under a lock that another has."""
    clock = Clock()
    with closing(SqliteRecords(path, clock)) as records:
        records.take("name", "holder", 15)
        clock.now += step
        assert not records.take("name", "other", 15)
        records.put("key", b"x", None, 1, None)
        assert records.renew("name", "holder", 15)


@pytest.mark.parametrize("step", [-3600, 3600], ids=["ST-10 machine started anew", "ST-10 later"])
def test_a_dead_holder_s_lock_ends_although_the_machine_was_started_anew(path, step):
    """A lease never counts longer than its own length from now."""
    ticks = Clock()
    with closing(SqliteRecords(path, ticks=ticks)) as records:
        assert records.take("name", "dead", 15)
        assert not records.take("name", "next", 15)
        ticks.now += step
        assert records.take("name", "next", 15)
        assert not records.renew("name", "dead", 15)
        records.release("name", "dead")
        assert not records.take("name", "third", 15)


def test_a_lock_that_nobody_let_go_is_remembered_for_a_day(path):
    """However long nothing could be written: the first write after it sweeps what nobody needs, and not this."""
    clock = Clock()
    with closing(SqliteRecords(path, clock, clock)) as records:
        records.take("name", "away", 15)
        clock.now += 3600
        records.put("other", b"x", None, 1, None)
        assert records.take("name", "next", 15) is Taken.INHERITED
        clock.now += TOMBSTONE_LIFE + 3600
        records.put("other", b"x", 1, 2, None)
        assert columns(path, "SELECT count(*) FROM locks") == [(0,)]


def test_no_statement_numbers_its_parameters():
    """Python 3.12.0 to 3.12.3 warn of `?1` where they are given a sequence, so with `-W error` no lock could be taken."""
    assert not re.findall(r"\?[0-9]", Path(sqlite.__file__).read_text("utf-8"))


def test_a_lock_of_before_the_machine_was_started_anew_is_swept(path):
    """Its end may be years away on the clock that began again."""
    clock = Clock()
    with closing(SqliteRecords(path, clock, clock)) as records:
        records.take("name", "away", 15)
    with closing(SqliteRecords(path, clock, lambda: 60.0)) as records:
        records.put("other", b"x", None, 1, None)
        assert columns(path, "SELECT count(*) FROM locks") == [(0,)]
