"""Keeps, where it is asked for, what a fleet shows and every secret that it was given, and searches for these in that.

    CANARY=build/canary python -m soak.logout

The folder gets a part for each fleet: `registry.jsonl` holds the secrets, `found/` the logs (at debug level), metrics,
pages, command lines, store files and Redis' files. `make canary` sets the variable for the programs that tests start.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.canary_record import Record
from tests.support.canary_search import Finder, places

if TYPE_CHECKING:
    from soak.fleet import Fleet

FOLDER = os.environ.get("CANARY", "")
PAGES = ("/metrics", "/", "/readyz", "/v1/sessions?limit=1000")
REDIS = {".aof", ".rdb"}
found: dict[str, Any] = {"secrets": 0, "files": 0, "hits": []}
"""What all fleets of this process had, for the line of figures."""


def _part(fleet: Fleet) -> Record:
    return Record(Path(FOLDER).absolute() / f"fleet-{os.getpid()}-{id(fleet):x}")


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


async def look(fleet: Fleet, given: dict[str, str], session: Any) -> None:
    """Keep what a fleet shows now, before it is ended; `given` are secrets by kind, `session` makes a session's id."""
    record = _part(fleet)
    for kind, value in given.items():
        record.secret(value, kind)
    books = await fleet.far.ask("secrets")
    for token in books["tokens"]:
        record.secret(token, "token")
    for subject in books["subjects"]:
        record.secret(session(subject), "session id")
    for instance in fleet.instances:
        record.text("command line", _command_line(instance.process.pid))
        for path in PAGES:
            with suppress(OSError, IndexError, ValueError):
                record.text("page", (await fleet.manage_body(instance.number, "GET", path))[1])
    record.files("log", [instance.log for instance in fleet.instances])
    record.files("redis", [path for path in fleet.folder.rglob("*") if path.suffix in REDIS])
    record.stores(fleet.folder)
    record.close()
    _search(record)


def _search(record: Record) -> None:
    paths = sorted(record.found.iterdir())
    hits = places(Finder(record.secrets), ((path.name, path.read_bytes()) for path in paths))
    found["secrets"] += len(record.secrets)
    found["files"] += len(paths)
    found["hits"] += [f"{hit.kind} ({hit.spelling}) in {hit.place} line {hit.line}" for hit in hits[:20]]
