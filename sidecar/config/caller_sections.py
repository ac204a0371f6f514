"""The section `callers`: each entry's keyword chooses its kind, and the kind says which keys it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.callers import APP_KINDS, SESSION_KINDS, SessionKind
from sidecar.config import schema
from sidecar.config.kinds import BROKEN
from sidecar.config.problems import either, near, quoted
from sidecar.config.validating import named, unknown, value_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.config.document import Document
    from sidecar.config.reading import Path
    from sidecar.config.sections import Parsed


def read(document: Document, parsed: Parsed, value: Any) -> None:
    """Put the sessions' places and the apps of the section into `parsed`; report what cannot be read."""
    if not isinstance(value, dict):
        parsed.apps_unread = True
        document.report(("callers",), "expected a mapping of keys", found=True)
        return
    for key in value.keys() - schema.CallersKeys.model_fields.keys():
        unknown(document, ("callers", key), schema.CallersKeys)
    parsed.sessions_given = "session" in value
    if "session" in value and value["session"] is not BROKEN:
        parsed.sessions = _sessions(document, value["session"])
    apps = value.get("apps", {})
    if apps == {} and "apps" in value:
        hint = "an app is `NAME: {basic: ${KEY}}`; leave the key out to take anyone on loopback for the application"
        document.report(("callers", "apps"), "expected at least one app", hint)
    if isinstance(apps, dict):
        for name, item in apps.items():
            if named(document, ("callers", "apps", name)):
                parsed.apps[name] = _kind(document, ("callers", "apps", name), APP_KINDS, item, app=name)
        return
    parsed.apps_unread = True
    if apps is not BROKEN:
        document.report(("callers", "apps"), "expected a mapping of names to proofs", found=True)


def _sessions(document: Document, value: Any) -> list[SessionKind] | None:
    if not isinstance(value, list):
        hint = "write a list: [{cookie: sidecar_session}]"
        document.report(("callers", "session"), "expected a list of places", hint, found=True)
        return None
    found = [_kind(document, ("callers", "session", at), SESSION_KINDS, item) for at, item in enumerate(value)]
    for at, kind in enumerate(found):
        if kind is not None and any(_same_place(kind, other) for other in found[:at]):
            document.report(("callers", "session", at), "this place stands in the list already", "keep one of the two")
    kinds_read = [kind for kind in found if kind is not None]
    return kinds_read if kinds_read or not value else None


def _same_place(one: SessionKind, other: SessionKind | None) -> bool:
    return other is not None and (one.cookies, one.carriers) == (other.cookies, other.carriers)


def _kind(document: Document, path: Path, known: Mapping[str, type], value: Any, **more: str) -> Any:
    if value is BROKEN:
        return None
    keyword = _keyword(document, path, known, value)
    if keyword is None:
        return None
    kind = known[keyword]
    given = value_of(document, path, schema.caller_keys(kind), value)
    for key in schema.caller_required(kind):
        if key not in value:
            document.report((*path, key), f"is missing beside {quoted(keyword)}")
    if given is None:
        return None
    members = {key: getattr(given, key) for key in type(given).model_fields if getattr(given, key) is not None}
    return kind(**members, **more) if all(key in members for key in schema.caller_required(kind)) else None


def _keyword(document: Document, path: Path, known: Mapping[str, type], value: Any) -> str | None:
    """Return the keyword that chooses the kind; report where there is not exactly one."""
    expected = f"expected {either(known)} as a key"
    if not isinstance(value, dict):
        document.report(path, expected, found=True)
        return None
    later = next((key for key in value if key in schema.LATER_CALLERS), None)
    if later is not None:
        message = f"{expected}: this kind is not supported by this version"
        document.report((*path, later), message, key=True)
        return None
    found: list[str] = [key for key in value if key in known]
    if len(found) == 1:
        return found[0]
    if found:
        document.report(path, f"{either(found, 'and')} exclude each other", "write one entry for each")
        return None
    word = next(iter(value), None)
    if word is None:
        document.report(path, expected)
    else:
        document.report((*path, word), f"{expected}, found {quoted(word)}", near(word, known), key=True)
    return None
