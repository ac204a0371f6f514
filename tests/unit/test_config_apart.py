"""The configuration read in a process of its own: the same values, the same problems, and a way without it."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from sidecar import config
from sidecar.config import ConfigError, apart
from tests.support.config import IDP, ROUTE, write

CANARY = "canary-client-secret"
TEXT = (
    'admin: {bind: "127.0.0.1:0", token: "${SECRET}"}\ncallers: {apps: {billing: {basic: "${SECRET}"}}}\n' + IDP + ROUTE
)


@pytest.fixture(params=["forked", "spawned"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have each test read in a fork, as at start, and in a new interpreter, as where there are threads."""
    monkeypatch.setattr(threading, "active_count", lambda: 1 if request.param == "forked" else 2)
    return str(request.param)


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note what is read in this process."""
    here: list[str] = []
    load = config.load

    def noting(path, environ):
        here.append(str(path))
        return load(path, environ)

    monkeypatch.setattr(config, "load", noting)
    return here


def test_settings_read_apart_are_the_same_secrets_included(tmp_path) -> None:
    """Whoever reads the file, the settings are equal, and the secrets in them too."""
    path = write(tmp_path, TEXT)
    read = apart.load(path, {"SECRET": CANARY})
    assert read == config.load(path, {"SECRET": CANARY})
    secret = read.providers["idp"].client_secret
    assert secret is not None
    assert secret.reveal() == CANARY
    assert read.routes[0].spec is not None
    assert read.routes[0].spec.fingerprint


def test_problems_found_apart_are_the_same(tmp_path) -> None:
    """Every problem comes back with its place, and none shows a secret."""
    more = "rotes: []\nvia: ${file:late}\n"
    path = write(tmp_path, TEXT.replace("client_id", "tls: {ca: ca.pem}, client_ib") + more)
    told = []
    for load in (apart.load, config.load):
        with pytest.raises(ConfigError) as caught:
            load(path, {"SECRET": CANARY})
        told.append(caught.value)
    assert told[0].problems == told[1].problems
    assert told[0].files == told[1].files
    assert {str(tmp_path / name): "none" for name in ("late", "ca.pem")}.items() <= told[0].files.items()
    assert str(told[0]) == str(told[1])
    assert CANARY not in str(told[0])


@pytest.mark.parametrize("trouble", ["none can be started", "it ends at once", "it is of another version"])
def test_file_is_read_here_where_another_process_is_no_use(
    trouble: str, way: str, tmp_path, monkeypatch: pytest.MonkeyPatch, read_here: list[str]
) -> None:
    """A sealed container, a killed child, or files that were replaced under the program: the answer is the same."""

    def refused() -> int:
        raise BlockingIOError

    parent = os.getpid()
    if trouble == "it is of another version":
        monkeypatch.setattr(apart, "_shape", lambda: ("ours" if os.getpid() == parent else "theirs",))
    elif way == "forked":
        sick = refused if trouble == "none can be started" else os._exit
        monkeypatch.setattr(*((os, "fork", sick) if sick is refused else (apart, "_answer", lambda *_: sick(3))))
    else:
        monkeypatch.setattr(sys, "executable", "/nowhere/python" if trouble == "none can be started" else "/bin/false")
    path = write(tmp_path, IDP + ROUTE)
    assert apart.load(path, {"SECRET": CANARY}).routes
    assert read_here == [str(path)]


def test_nothing_is_read_here_where_another_process_answers(tmp_path, read_here: list[str]) -> None:
    """What the child found is taken as it is: pydantic stays out of the process that serves."""
    assert apart.load(write(tmp_path, TEXT), {"SECRET": CANARY}).routes
    assert read_here == []
