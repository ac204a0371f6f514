"""What is told of a store that fails, and how often."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from sidecar.errors import StoreUnavailableError
from sidecar.stores import open_store
from sidecar.stores.complaints import Complaints

if TYPE_CHECKING:
    from pathlib import Path


def test_a_cause_is_told_at_once_and_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Many failures for one cause are one line a minute; another cause is told at once."""
    now = [0.0]
    complaints = Complaints(lambda: now[0])
    with caplog.at_level(logging.WARNING, "sidecar.stores.complaints"):
        for second in range(70):
            now[0] = second
            complaints.failed(StoreUnavailableError("sidecar.db: SQLITE_FULL"))
        complaints.failed(StoreUnavailableError("sidecar.db: SQLITE_READONLY"))
    told = [(line.getMessage(), line.__dict__["reason"]) for line in caplog.records]
    assert told == [
        ("store_failing", "sidecar.db: SQLITE_FULL"),
        ("store_failing", "sidecar.db: SQLITE_FULL"),
        ("store_failing", "sidecar.db: SQLITE_READONLY"),
    ]


async def test_the_cause_of_a_failure_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """An operator learns why the store is unavailable; the password is not part of it."""
    store = open_store("redis://:s3cr3t-canary@127.0.0.1:1/0")
    with caplog.at_level(logging.WARNING, "sidecar.stores.complaints"):
        with pytest.raises(StoreUnavailableError):
            await store.ping()
        await store.close()
    assert [line.getMessage() for line in caplog.records] == ["store_failing"]
    assert "canary" not in str([line.__dict__ for line in caplog.records])


async def test_a_file_for_tls_that_is_none_is_in_the_log(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Nothing can be asked with it, however often: one line says why."""
    (tmp_path / "ca.pem").write_text("not a certificate")
    store = open_store(f"rediss://127.0.0.1:1/0?ca={tmp_path}/ca.pem")
    with caplog.at_level(logging.WARNING, "sidecar.stores.complaints"):
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                await store.ping()
        await store.close()
    assert [line.__dict__["reason"] for line in caplog.records] == ["Redis: SSLError"]


async def test_a_disk_that_refuses_is_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the disk says is told, though each caller is told only that the store is unavailable."""

    def full(_disk: object) -> None:
        raise StoreUnavailableError("sidecar.db: SQLITE_FULL")

    monkeypatch.setattr("sidecar.stores.sqlite.SqliteRecords.ping", full)
    store = open_store(f"sqlite:{tmp_path}/sidecar.db")
    with caplog.at_level(logging.WARNING, "sidecar.stores.complaints"):
        with pytest.raises(StoreUnavailableError):
            await store.ping()
        await store.close()
    assert [line.__dict__["reason"] for line in caplog.records] == ["sidecar.db: SQLITE_FULL"]
