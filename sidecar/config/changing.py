"""What differs between two configurations, in lines for people. Names only: no value, so no secret."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sidecar.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LABELS = {"sessions": "callers.session", "session_life": "sessions", "apps": "callers.apps"}
_BY_NAME = ("routes", "apps", "providers")
_NOT_TOLD = ("files", "seen", "warnings")


def changed_routes(old: Settings, new: Settings) -> tuple[str, ...]:
    """Return `route added: x`, `route removed: y`, `route altered: z`, `providers altered: idp`, `limits altered`, ….

    Routes have a line each; where nothing changed there is no line. The files' contents behind `tls` are not compared.
    """
    before = {route.name: route for route in old.routes}
    after = {route.name: route for route in new.routes}
    lines = [f"route {how}: {name}" for how, names in _compared(before, after) for name in names]
    lines += _grouped("providers", old.providers, new.providers)
    lines += _grouped("callers.apps", {app.app: app for app in old.apps}, {app.app: app for app in new.apps})
    plain = (member.name for member in fields(Settings) if member.name not in (*_BY_NAME, *_NOT_TOLD))
    lines += [f"{_LABELS.get(name, name)} altered" for name in plain if getattr(old, name) != getattr(new, name)]
    return tuple(lines)


def _grouped(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [f"{what} {how}: {', '.join(names)}" for how, names in _compared(before, after) if names]


def _compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    yield "added", [name for name in after if name not in before]
    yield "removed", [name for name in before if name not in after]
    yield "altered", [name for name in after if name in before and after[name] != before[name]]
