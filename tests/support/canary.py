"""A pytest plugin: run any tests at debug level, then search all that the product showed for every secret of the run.

`make canary`, or `python -m pytest -p tests.support.canary --canary FOLDER tests/e2e`; side by side with `-n` too. In
FOLDER, which must not exist, each process of the tests and each fleet of a soak program (`soak.canary`) has a part:
`registry.jsonl` holds its secrets, `found/` what is searched. Every secret is looked for in every part. A hit names its
file there, its line, the kind of secret and the spelling, and makes the run fail. `--canary-leave` keeps the folder of a
run without hits.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.canary_record import Record
from tests.support.canary_search import Finder, places, unsearchable
from tests.support.canary_watch import watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.canary_search import Hit

SHOWN = 100  # hits
LEAKED = pytest.ExitCode.TESTS_FAILED


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    parser.addoption("--canary", metavar="FOLDER", help="search all that the product shows for every secret")
    parser.addoption("--canary-leave", action="store_true", help="leave the folder although nothing was found")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to listen, before a test module is imported; with `-n`, in the processes that run tests."""
    if not (folder := config.getoption("--canary")):
        return
    path = Path(folder).absolute()
    os.environ["CANARY"] = str(path)  # for the programs of `soak/` that tests start
    worker = getattr(config, "workerinput", {}).get("workerid", "")
    if worker or not config.getoption("numprocesses", default=None):
        config.pluginmanager.register(Listening(path / (worker or "tests")))
    if not worker:
        config.pluginmanager.register(Searching(path, leave=config.getoption("--canary-leave")))


class Listening:
    """One process that runs tests."""

    def __init__(self, part: Path) -> None:
        self._record = Record(part)
        self._end: Callable[[], None] = watch(self._record)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Write the registry."""
        self._end()
        self._record.close()


class Searching:
    """The whole run."""

    def __init__(self, folder: Path, *, leave: bool) -> None:
        self._folder = folder
        self._leave = leave
        self._hits: list[Hit] = []
        self._told: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Search, when all parts are there."""
        parts = sorted(path.parent for path in self._folder.glob("*/registry.jsonl"))
        rows = [json.loads(line) for part in parts for line in (part / "registry.jsonl").read_text().splitlines()]
        secrets = {value: kind for kind, value in rows}
        short = {value: secrets.pop(value) for value in list(secrets) if unsearchable(value)}
        files = [path for part in parts for path in sorted((part / "found").iterdir())]
        texts = ((f"{path.parent.parent.name}/{path.name}", path.read_bytes()) for path in files)
        self._hits = places(Finder(secrets), texts)
        size = sum(path.stat().st_size for path in files)
        fleets = sum(part.name.startswith("fleet") for part in parts)
        self._told = [
            f"{len(secrets)} secrets looked for in {len(files)} files, {size >> 10} KiB, of {fleets} fleets too",
            f"{len(short)} were too short or too plain to look for: {sorted(set(short.values()))}",
        ]
        if self._hits or not secrets:
            session.exitstatus = LEAKED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Report."""
        for line in self._told:
            terminalreporter.write_line(f"canary: {line}")
        for hit in self._hits[:SHOWN]:
            terminalreporter.write_line(f"canary: {hit.kind} ({hit.spelling}) in {hit.place} line {hit.line}", red=True)
        terminalreporter.write_line(f"canary: {len(self._hits)} hits", red=bool(self._hits))
        if not self._hits and not self._leave:
            shutil.rmtree(self._folder)
