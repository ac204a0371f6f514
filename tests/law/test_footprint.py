"""What a minimal run loads at start: its memory and its start are its imports, and they grow unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sidecar.credentials.vault import generate_key
from tests.support.same_sidecar import SAME_SIDECAR

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {
    "aiohttp": "12 MB: the sign-in listener alone needs it",
    "pydantic": "11 MB with the configuration's models: `config.apart` keeps them in another process",
    "yaml": "read in another process, like pydantic",
    "prometheus_client": "4 MB: `admin.text_format` writes the format",
    "watchfiles": "3 MB with anyio: `config.watch` looks by itself",
    "anyio": "2 MB",
    "redis": "8 MB: only with a Redis store",
    "joserfc": "2 MB and 150 ms: only where users sign in or assertions are signed",
    "http.client": "1 MB with the mail library: only `cli.asking` and the demo need it",
    "email": "1 MB",
    "urllib.request": "2 MB",
    "html": "0.4 MB of entities: only the status page needs it",
    "importlib.metadata": "1 MB with the mail library",
    "multiprocessing": "1 MB",
    "rich": "4 MB: what structlog would draw tracebacks with",
    "sidecar.demo": "never outside `sidecar demo`",
    "sidecar.login": "only with a `login` section",
    "sidecar.workers": "only with more than one worker",
}
"""What must not be loaded by a minimal run that has started, and why."""
MOST_MODULES = 440
"""How many modules it may load, the standard library's included: what creeps in piece by piece shows here."""

CONFIGURATION = """
listeners: [{bind: "127.0.0.1:0"}]
admin: {bind: "127.0.0.1:0"}
store: {url: "sqlite:sidecar.db"}
providers: {idp: {token_endpoint: "https://idp.example/token", client_id: app, client_secret: "${SECRET}"}}
routes:
  - {match: {host: stats.internal}, upstream: https://stats.example.com, as: app, scope: stats.read}
  - {match: {host: profiles.internal}, upstream: https://profiles.example.com, as: user, scope: profiles.read}
"""
# Runs the command line, and tells what is loaded half a second after the program is up.
PROGRAM = """
import asyncio, os, signal, sys
from sidecar import process
ready = process.spare_the_collector
def told():
    print(*sys.modules, sep="\\n", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
def spare_the_collector():
    ready()
    asyncio.get_running_loop().call_later(0.5, told)
process.spare_the_collector = spare_the_collector
sys.argv = ["sidecar", "run", "-c", "sidecar.yaml"]
from sidecar.cli import main
main()
"""


def modules(program: str, folder: Path) -> frozenset[str]:
    """Run a program that prints what it has loaded, in the folder of its configuration."""
    environ = {**os.environ, "SECRET": "s3cret", "KEY": generate_key(), **SAME_SIDECAR}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return frozenset(ran.stdout.split())


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """Run the program with two routes and SQLite, and return the modules that it has loaded once it serves."""
    folder = tmp_path_factory.mktemp("footprint")
    (folder / "sidecar.yaml").write_text(CONFIGURATION)
    return modules(PROGRAM, folder)


@pytest.mark.parametrize("module", HEAVY)
def test_running_sidecar_has_not_loaded(module: str, loaded: frozenset[str]) -> None:
    """What only some need is loaded where it is needed."""
    assert not {name for name in loaded if name == module or name.startswith(f"{module}.")}, HEAVY[module]


def test_running_sidecar_loads_few_modules(loaded: frozenset[str]) -> None:
    """Whoever adds a library sees what it brings along."""
    assert "sidecar.wire.downstream" in loaded
    assert len(loaded) <= MOST_MODULES, sorted(loaded)


READER = """
import os, sys
import sidecar.cli
from sidecar import config
settings = config.load("sidecar.yaml", os.environ)
assert settings.routes
print(*sys.modules)
"""


@pytest.mark.parametrize("store", ["sqlite:sidecar.db", "redis://127.0.0.1:6379/0"])
def test_reading_a_configuration_needs_neither_an_event_loop_nor_a_store(store: str, tmp_path: Path) -> None:
    """The start waits for it: what only whoever serves needs is loaded beside it."""
    keys = ", keys: ['${KEY}']" if store.startswith("redis") else ""
    (tmp_path / "sidecar.yaml").write_text(CONFIGURATION.replace('"sqlite:sidecar.db"', f'"{store}"{keys}'))
    assert not {"asyncio", "ssl", "redis", "sqlite3"} & modules(READER, tmp_path)
