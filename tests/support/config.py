"""Configurations as text, with ▶ where a problem is expected: the mark is the expected place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.config import ConfigError, Problem, load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.settings import Settings

MARK = "▶"
ENVIRON = {"SECRET": "s3cr3t-canary", "EMPTY": "", "NAME": "idp"}
IDP = "providers:\n  idp: {issuer: https://login.example.com, client_id: app, client_secret: '${SECRET}'}\n"
ROUTE = "routes:\n  - {match: {host: a.internal}, upstream: https://a.example.com, as: app}\n"


def write(folder: Path, text: str | bytes, name: str = "sidecar.yaml") -> Path:
    """Write a configuration and return its path."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def settings(folder: Path, text: str, environ: Mapping[str, str] = ENVIRON) -> Settings:
    """Return what a text loads to."""
    return load(write(folder, text), environ)


def problems(folder: Path, text: str | bytes, environ: Mapping[str, str] = ENVIRON) -> tuple[Problem, ...]:
    """Return the problems of a text that must not load."""
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), environ)
    return caught.value.problems


def places(marked: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the text without its marks, and the line and column of each mark."""
    lines, found = [], []
    for number, line in enumerate(marked.split("\n"), 1):
        rest = line
        while MARK in rest:
            found.append((number, rest.index(MARK) + 1))
            rest = rest.replace(MARK, "", 1)
        lines.append(rest)
    return "\n".join(lines), found
