"""Section by section, from plain data to models: one bad entry hides no other.

An entry with bad keys is looked at without them, so that `rules` can still judge the others. What a value's findings
are is `validating`; what sections mean together is not judged here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.config import caller_sections, schema
from sidecar.config.door_keys import AdminKeys, ListenerKeys, LoginKeys, SessionsKeys
from sidecar.config.kinds import BROKEN
from sidecar.config.provider_keys import ProviderKeys
from sidecar.config.route_keys import RouteKeys
from sidecar.config.validating import named, unknown, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

    from sidecar.callers import AppKind, SessionKind
    from sidecar.config.document import Document
    from sidecar.config.reading import Path, Step


@dataclass(frozen=True, slots=True)
class Entry:
    """One mapping of the file: its place, the keys it holds, and its model without the keys that were bad."""

    path: Path
    given: frozenset[str]
    model: Any

    def at(self, *steps: Step) -> Path:
        """Return the path of something inside."""
        return (*self.path, *steps)


@dataclass(slots=True)
class Parsed:
    """What could be read. `sessions` is None where the file leaves them out, or where none could be read.

    An app that could not be read has its name and None. `apps_unread` says that the apps could not be read at all.
    `no_routes` says that the file has the key and an empty list.
    """

    single: dict[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    listeners: list[Entry] = field(default_factory=list)
    providers: dict[str, Entry] = field(default_factory=dict)
    routes: list[Entry] = field(default_factory=list)
    no_routes: bool = False
    sessions: list[SessionKind] | None = None
    sessions_given: bool = False
    apps: dict[str, AppKind | None] = field(default_factory=dict)
    apps_unread: bool = False


def parse(document: Document, data: Any) -> Parsed:
    """Return the sections of the file; every misfit is reported to `document`."""
    if not isinstance(data, dict):
        document.report((), "expected a mapping with keys such as providers and routes", found=True)
        return Parsed()
    parsed = Parsed(given=frozenset(data))
    for key, value in data.items():
        if key in schema.LATER_SECTIONS:
            document.report((key,), "this section is not supported by this version", "remove it", key=True)
        elif key not in schema.File.model_fields:
            unknown(document, (key,), schema.File)
        elif value is not BROKEN:
            _section(document, parsed, key, value)
    return parsed


_ENTRIES: dict[str, type[BaseModel]] = {
    "admin": AdminKeys,
    "login": LoginKeys,
    "sessions": SessionsKeys,
    "store": schema.StoreKeys,
}


def _section(document: Document, parsed: Parsed, key: str, value: Any) -> None:
    if key == "listeners":
        parsed.listeners = list(_entries(document, (key,), ListenerKeys, value, list))
    elif key == "routes":
        parsed.routes = list(_entries(document, (key,), RouteKeys, value, list))
        parsed.no_routes = value == []
    elif key == "providers":
        parsed.providers = _providers(document, value)
    elif key in _ENTRIES:
        parsed.single[key] = _entry(document, (key,), _ENTRIES[key], value)
    elif key == "callers":
        caller_sections.read(document, parsed, value)
    else:
        parsed.single[key] = value_of(document, (key,), schema.File.model_fields[key].rebuild_annotation(), value)


def _providers(document: Document, value: Any) -> dict[str, Entry]:
    entries = _entries(document, ("providers",), ProviderKeys, value, dict)
    return {str(entry.path[1]): entry for entry in entries if named(document, entry.path)}


def _entries(
    document: Document, path: Path, model: type[BaseModel], value: Any, shape: type[list[Any] | dict[str, Any]]
) -> Iterable[Entry]:
    if not isinstance(value, shape):
        hint = "each entry begins with a dash: `- …`" if shape is list else "each entry has a name: `NAME: …`"
        document.report(path, f"expected a {'list' if shape is list else 'mapping'}", hint, found=True)
        return
    pairs: Iterable[tuple[Step, Any]] = enumerate(value) if isinstance(value, list) else value.items()
    for step, item in pairs:
        if item is not BROKEN:
            yield _entry(document, (*path, step), model, item)


def _entry(document: Document, path: Path, model: type[BaseModel], value: Any) -> Entry:
    read = value_of(document, path, model, value)
    given = frozenset(value) if isinstance(value, dict) else frozenset()
    for key, message in schema.required(model).items() if isinstance(value, dict) else ():
        if key not in given:
            document.report((*path, key), message)
    return Entry(path, given, read if read is not None else model())
