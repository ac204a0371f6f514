"""The configuration read in a process of its own: the same values, the same problems, and a way without it."""

from __future__ import annotations

import sys

import pytest

from sidecar import config
from sidecar.config import ConfigError, apart
from tests.support.config import IDP, ROUTE, write

CANARY = "canary-client-secret"
TEXT = (
    'admin: {bind: "127.0.0.1:0", token: "${SECRET}"}\ncallers: {apps: {billing: {basic: "${SECRET}"}}}\n' + IDP + ROUTE
)


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
    path = write(tmp_path, TEXT.replace("client_id", "client_ib") + "rotes: []\n")
    told = []
    for load in (apart.load, config.load):
        with pytest.raises(ConfigError) as caught:
            load(path, {"SECRET": CANARY})
        told.append(caught.value)
    assert told[0].problems == told[1].problems
    assert str(told[0]) == str(told[1])
    assert CANARY not in str(told[0])


@pytest.mark.parametrize("executable", ["", "/nowhere/python", "/bin/false"], ids=["none", "missing", "ends at once"])
def test_file_is_read_here_where_there_can_be_no_other_process(executable, tmp_path, monkeypatch) -> None:
    """A sealed container, or a program without an interpreter beside it, starts all the same."""
    monkeypatch.setattr(sys, "executable", executable)
    path = write(tmp_path, IDP + ROUTE)
    assert apart.load(path, {"SECRET": CANARY}).routes
