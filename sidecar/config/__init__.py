"""The configuration file: read with positions, checked as a whole, compiled to `sidecar.settings`.

YAML and pydantic live only in this package, and are imported when a file is read here: `apart` has it read elsewhere.
`apart` and `watch` are imported by their users, since they need processes and an event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.config.changing import changed_routes
from sidecar.config.problems import ConfigError, Problem, render

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.settings import Address, Settings

__all__ = ["ConfigError", "Problem", "admin_bind", "changed_routes", "json_schema", "load", "render"]


def load(path: str | Path, environ: Mapping[str, str]) -> Settings:
    """Return the configuration of the YAML file at `path`; raise `ConfigError` with every problem in it.

    `environ` is where `${NAME}` looks; `${file:PATH}` starts at the file's own folder. No other exception is raised.
    """
    from sidecar.config import loading  # noqa: PLC0415 - pydantic takes 11 MB and 200 ms

    return loading.load(path, environ)


def admin_bind(path: str | Path, environ: Mapping[str, str]) -> Address | None:
    """Return where the admin listener is by the file, whatever else is wrong in it; None where that cannot be read."""
    from sidecar.config import loading  # noqa: PLC0415

    return loading.admin_bind(path, environ)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file (draft 2020-12)."""
    from sidecar.config import exporting  # noqa: PLC0415

    return exporting.json_schema()
