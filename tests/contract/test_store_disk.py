"""The store's file when the disk or its power fails: strace makes system calls fail, or tells what was on the disk."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.errors import StoreBrokenError, StoreUnavailableError
from sidecar.stores import open_store, sqlite_file
from sidecar.stores.sqlite import SqliteRecords

ROOT = Path(__file__).parents[2]
TRACED = pytest.mark.skipif(not shutil.which("strace"), reason="no strace here")
WRITER = """
import sys
from pathlib import Path
from sidecar.errors import StoreUnavailableError
from sidecar.stores.sqlite import SqliteRecords
records = SqliteRecords(Path(sys.argv[1]))
done = 0
for attempt in range(60):
    try:
        last = records.get("key").version
        assert last in (done, done + 1) if done else True, (last, done)
        assert records.put("key", bytes([attempt]) * 6000, last, last + 1, None)
        done = last + 1
        print(done, flush=True)
    except StoreUnavailableError as error:
        print(0, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a store with one record."""
    made = tmp_path / "store.db"
    with closing(SqliteRecords(made)) as records:
        assert records.put("key", b"first", None, 1, None)
    return made


def traced(path: Path, *options: str) -> list[int]:
    """Run the writer under strace; return what it told: a version for each put that was done, 0 for one that failed."""
    command = ["strace", "-f", "-qq", *options, sys.executable, "-c", WRITER, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    return [int(line) for line in run.stdout.split()]


FAULTS = {
    "ST-04 EIO writing": "pwrite64:error=EIO:when=15+37",
    "ST-04 ENOSPC writing": "pwrite64:error=ENOSPC:when=16+41",
    "ST-04 EIO flushing": "fdatasync:error=EIO:when=3+4",
    "ST-04 EROFS writing": "pwrite64:error=EROFS:when=14+43",
}


@TRACED
@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_failing_system_calls_lose_nothing_that_was_acknowledged(path: Path, fault: str) -> None:
    """[ST-04] Each failure has a name, the value is the old or the new one, and the next write goes on."""
    told = traced(
        path,
        "-e",
        f"inject={fault}",
        "-e",
        "trace=pwrite64,fdatasync",
        "-o",
        "/dev/null",
        "-P",
        f"{path}-wal",
        "-P",
        str(path),
    )
    assert 0 in told
    assert max(told) > 1
    with closing(SqliteRecords(path)) as records:
        record = records.get("key")
    assert record is not None
    assert record.version >= max(told)


CALL = re.compile(r"(?:\d+ +)?(\w+)\((\d+)<([^>]*)>(?:, (.*))?\) = (\d+)$")


@TRACED
@pytest.mark.slow
def test_power_cut_loses_nothing_that_was_acknowledged(path: Path, tmp_path: Path) -> None:
    """[ST-02] What was not flushed is gone, in whole or in part: the store is sound and has what was acknowledged."""
    log, chance = tmp_path / "strace.log", random.Random(2)  # noqa: S311
    names = [str(path), f"{path}-wal"]
    now: dict[str, bytearray] = defaultdict(
        bytearray, {name: bytearray(Path(name).read_bytes()) for name in names if Path(name).exists()}
    )
    traced(path, "-y", "-xx", "-s", "100000", "-e", "trace=pwrite64,fdatasync,fsync,ftruncate,write", "-o", str(log))
    durable = {name: bytes(found) for name, found in now.items()}
    loose: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    acknowledged, cuts = 1, 0
    for line in log.read_text().splitlines():
        call = CALL.match(line)
        if call is None:
            continue
        name, number, file, rest = call[1], int(call[2]), call[3], call[4] or ""
        file = file.encode().decode("unicode_escape")
        if name == "pwrite64" and file in names:
            data, _, offset = rest.rsplit(", ", 2)
            piece = bytes.fromhex(data.strip('"').replace("\\x", ""))
            now[file][int(offset) : int(offset) + len(piece)] = piece
            loose[file].append((int(offset), piece))
        elif name in ("fdatasync", "fsync") and file in names:
            durable[file], loose[file] = bytes(now[file]), []
        elif name == "write" and number == 1:
            told = bytes.fromhex(rest.split('"')[1].replace("\\x", "")).strip()
            acknowledged = int(told or acknowledged)
            cuts += 1
            assert cut(tmp_path / f"cut{cuts}", durable, loose, chance) >= acknowledged
    assert cuts > 50


def cut(
    folder: Path, durable: dict[str, bytes], loose: dict[str, list[tuple[int, bytes]]], chance: random.Random
) -> int:
    """Put what a power cut would have left into a folder, some unflushed pieces included; return the record's version."""
    folder.mkdir(mode=0o700)
    for name, found in durable.items():
        image = bytearray(found)
        for offset, piece in loose[name]:
            if chance.random() < 0.5:
                image[offset : offset + len(piece)] = piece[: chance.randrange(len(piece) + 1)]
        target = folder / Path(name).name
        target.write_bytes(image)
        target.chmod(0o600)
    with closing(SqliteRecords(folder / "store.db")) as records:
        record = records.get("key")
    assert record is not None
    return record.version


async def test_large_file_is_ready_at_once_and_its_damage_is_told_soon(path: Path, monkeypatch, caplog) -> None:
    """[ST-09] [ST-05] The whole file is read meanwhile; from what is found on, nothing is answered any more."""
    with closing(SqliteRecords(path)) as records:
        records.put("other", b"sound", None, 1, None)
    with closing(sqlite_file.sqlite3.connect(path)) as connection:
        connection.execute("UPDATE records SET value = x'00' WHERE key = 'key'")
        connection.commit()
    monkeypatch.setattr(sqlite_file, "AT_ONCE", 0)
    store = open_store(f"sqlite:{path}")
    await store.ping()
    await asyncio.wait_for(store._inspection, 10)
    with pytest.raises(StoreBrokenError, match="is damaged"):
        await store.get("other")
    with pytest.raises(StoreBrokenError, match="is damaged"):
        await store.put("new", b"x", expected=None, version=1)
    await store.close()
    assert "store_damaged" in caplog.text


async def test_large_sound_file_goes_on_being_used(path: Path, monkeypatch) -> None:
    """[ST-09] The reading finds nothing; closing does not wait for it."""
    monkeypatch.setattr(sqlite_file, "AT_ONCE", 0)
    store = open_store(f"sqlite:{path}")
    await store.ping()
    await store._inspection
    assert await store.get("key")
    await store.close()


async def test_record_damaged_in_a_large_file_is_never_returned(path: Path, monkeypatch) -> None:
    """[ST-05] Each record is looked at when it is read, whatever the inspection has reached."""
    with closing(sqlite_file.sqlite3.connect(path)) as connection:
        connection.execute("UPDATE records SET value = x'00' WHERE key = 'key'")
        connection.commit()
    monkeypatch.setattr(sqlite_file, "AT_ONCE", 0)
    store = open_store(f"sqlite:{path}")
    with pytest.raises((StoreBrokenError, StoreUnavailableError)):
        await store.get("key")
    await store.close()
