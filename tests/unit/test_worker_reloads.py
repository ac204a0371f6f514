"""A reload over several workers: what is read when, with an office that only notes what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar import config
from sidecar.config import apart
from sidecar.workers.reloads import Reloads
from tests.support.config import ENVIRON, IDP, ROUTE, write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pytest

    from sidecar.settings import Settings


class Office:
    """One worker, whose messages are noted."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def workers(self) -> list[int]:
        return [0]

    def tell(self, _number: int, message: Mapping[str, Any]) -> None:
        self.told.append(message["do"])

    def when_readable(self, _descriptor: int, _call: Callable[[], None]) -> None:
        raise AssertionError("the file is read here")


class ReadHere:
    """A reading without another process."""

    descriptor = None

    def __init__(self, path: str, environ: Mapping[str, str]) -> None:
        self._path, self._environ = path, environ

    def settings(self) -> Settings:
        return config.load(self._path, self._environ)


def test_change_between_reading_and_commit_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[HR-05] A file that is written while workers prepare is read once more; the last word on it comes too late to tell."""
    monkeypatch.setattr(apart, "Reading", ReadHere)
    path = write(tmp_path, IDP + ROUTE)
    office = Office()
    reloads = Reloads(config.load(path, ENVIRON), str(path), ENVIRON, office)
    write(tmp_path, IDP + ROUTE + "via: second\n")
    reloads.ask()
    write(tmp_path, IDP + ROUTE + "via: third\n")
    reloads.prepared(0, "")
    assert office.told == ["prepare", "commit", "prepare"]
    reloads.prepared(0, "")
    assert reloads.settings.via == "third"
    reloads.changed()
    assert office.told == ["prepare", "commit", "prepare", "commit"]


def test_file_that_a_refused_configuration_names_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[HR-02] A secret that comes later than the configuration that names it: read again, and taken."""
    monkeypatch.setattr(apart, "Reading", ReadHere)
    path = write(tmp_path, IDP + ROUTE)
    office = Office()
    reloads = Reloads(config.load(path, ENVIRON), str(path), ENVIRON, office)
    write(tmp_path, IDP + ROUTE + "via: ${file:late}\n")
    reloads.changed()
    reloads.changed()
    assert office.told == ["reject"]
    write(tmp_path, "someone", "late")
    reloads.changed()
    reloads.prepared(0, "")
    assert office.told == ["reject", "prepare", "commit"]
    assert reloads.settings.via == "someone"
    write(tmp_path, "another", "late")
    reloads.changed()
    assert office.told[3:] == ["prepare"]


def test_change_while_a_configuration_is_refused_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[HR-05] A file that is mended while workers look at it is read once more."""
    monkeypatch.setattr(apart, "Reading", ReadHere)
    path = write(tmp_path, IDP + ROUTE)
    office = Office()
    reloads = Reloads(config.load(path, ENVIRON), str(path), ENVIRON, office)
    write(tmp_path, IDP + ROUTE + "via: second\n")
    reloads.ask()
    write(tmp_path, IDP + ROUTE + "via: third\n")
    reloads.prepared(0, "of no use")
    assert office.told == ["prepare", "reject", "prepare"]
