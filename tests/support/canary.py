"""A pytest plugin: run any tests at debug level, then search all that the product showed for every secret of the run.

`make canary`, or `python -m pytest -p tests.support.canary --canary FOLDER tests/e2e`. In FOLDER, which must not exist,
`registry.jsonl` holds the secrets, `found/` what is searched; a hit names its file there, its line, the kind of secret
and the spelling, and makes the run fail. `--canary-leave` keeps the folder of a run without hits.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.canary_record import Record
from tests.support.canary_search import Finder, places
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
    """Begin to listen, before a test module is imported."""
    if folder := config.getoption("--canary"):
        config.pluginmanager.register(Canary(Path(folder).absolute(), leave=config.getoption("--canary-leave")))


class Canary:
    """One run."""

    def __init__(self, folder: Path, *, leave: bool) -> None:
        self._leave = leave
        self._record = Record(folder)
        self._end: Callable[[], None] = watch(self._record)
        self._hits: list[Hit] = []

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Search."""
        self._end()
        self._record.close()
        paths = sorted(self._record.found.iterdir())
        self._hits = places(Finder(self._record.secrets), ((path.name, path.read_bytes()) for path in paths))
        self._size = len(paths), sum(path.stat().st_size for path in paths)
        if self._hits or not self._record.secrets:
            session.exitstatus = LEAKED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Report."""
        record, write = self._record, terminalreporter.write_line
        count, size = self._size
        write(f"canary: {len(record.secrets)} secrets looked for in {count} files, {size >> 10} KiB")
        write(f"canary: {len(record.short)} were too short to look for: {sorted(set(record.short.values()))}")
        for hit in self._hits[:SHOWN]:
            write(f"canary: {hit.kind} ({hit.spelling}) in {hit.place} line {hit.line}", red=True)
        write(f"canary: {len(self._hits)} hits", red=bool(self._hits))
        if not self._hits and not self._leave:
            shutil.rmtree(record.folder)
