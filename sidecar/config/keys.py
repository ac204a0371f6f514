"""What the models of the configuration's keys are made of: a section, a key, a default as the file spells it.

Shape and JSON Schema only. Every key is optional here, so that a section with one bad key can still be looked at;
`schema.required` says which must be there. Defaults are read from `sidecar.settings`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sidecar.config import kinds


def _shown(value: Any) -> Any:
    """Return a default as the file would spell it."""
    if isinstance(value, float):
        return f"{value / 86400:g}d" if value >= 86400 else f"{value:g}s"  # noqa: PLR2004 - a day
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1024 and value % 1024 == 0:  # noqa: PLR2004
        return f"{value // 2**20}MiB" if value % 2**20 == 0 else f"{value // 2**10}KiB"
    return value if isinstance(value, (bool, int, str, list)) else str(value)


def key(description: str, default: Any = None, *, alias: str | None = None) -> Any:
    """Return the field of a key; `default` is only told, `compiling` leaves it to the settings."""
    extra = {} if default is None else {"default": _shown(default)}
    return Field(default=None, alias=alias, description=description, json_schema_extra=extra or None)


def default_of(settings: type, name: str) -> Any:
    """Return the default of a settings field that cannot be had from an instance."""
    return next(member.default for member in dataclasses.fields(settings) if member.name == name)


class Section(BaseModel):
    """A mapping of the file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, defer_build=True)


Params = dict[kinds.ParamName, kinds.HiddenText]


class TlsKeys(Section):
    """TLS as a client."""

    ca: kinds.Text | None = key("PEM file of the certificate authorities to trust instead of the system's.")
    cert: kinds.Text | None = key("PEM file of our client certificate.")
    key: kinds.Text | None = key("PEM file of the client certificate's private key.")
