"""Section by section, from plain data to models: one bad entry hides no other.

Translates pydantic's findings into problems, at their places. An entry with bad keys is looked at without them, so
that `rules` can still judge the others. What sections mean together is not judged here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from sidecar.callers import APP_KINDS, SESSION_KINDS, AppKind, SessionKind
from sidecar.config import kinds, schema
from sidecar.config.kinds import BROKEN
from sidecar.config.problems import Misfit, either, near, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidecar.config.document import Document
    from sidecar.config.reading import Path, Step

_PLAIN_MESSAGES = {
    "model_type": "expected a mapping of keys",
    "dict_type": "expected a mapping",
    "list_type": "expected a list",
    "too_short": "expected at least one entry: leave the key out for its default",
}


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
    """

    single: dict[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    listeners: list[Entry] = field(default_factory=list)
    providers: dict[str, Entry] = field(default_factory=dict)
    routes: list[Entry] = field(default_factory=list)
    sessions: list[SessionKind] | None = None
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
            _unknown(document, (key,), schema.File)
        elif value is not BROKEN:
            _section(document, parsed, key, value)
    return parsed


_ENTRIES: dict[str, type[BaseModel]] = {
    "admin": schema.AdminKeys,
    "login": schema.LoginKeys,
    "sessions": schema.SessionsKeys,
    "store": schema.StoreKeys,
}


def _section(document: Document, parsed: Parsed, key: str, value: Any) -> None:
    if key == "listeners":
        parsed.listeners = list(_entries(document, (key,), schema.ListenerKeys, value, list))
    elif key == "routes":
        parsed.routes = list(_entries(document, (key,), schema.RouteKeys, value, list))
    elif key == "providers":
        parsed.providers = _providers(document, value)
    elif key in _ENTRIES:
        parsed.single[key] = _entry(document, (key,), _ENTRIES[key], value)
    elif key == "callers":
        _callers(document, parsed, value)
    else:
        parsed.single[key] = _value(document, (key,), schema.File.model_fields[key].rebuild_annotation(), value)


def _providers(document: Document, value: Any) -> dict[str, Entry]:
    entries = _entries(document, ("providers",), schema.ProviderKeys, value, dict)
    return {str(entry.path[1]): entry for entry in entries if _named(document, entry.path)}


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
    read = _value(document, path, model, value)
    given = frozenset(value) if isinstance(value, dict) else frozenset()
    for key, message in schema.required(model).items() if isinstance(value, dict) else ():
        if key not in given:
            document.report((*path, key), message)
    return Entry(path, given, read if read is not None else model())


def _value(document: Document, path: Path, kind: Any, value: Any) -> Any:
    """Return the value of a key, without its bad parts, None where nothing is left."""
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        bad = _report(document, path, kind, error)
    if not isinstance(value, dict) or None in bad:
        return None
    good = {key: item for key, item in value.items() if key not in bad}
    return _adapter(kind).validate_python(good)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _report(document: Document, path: Path, kind: Any, error: ValidationError) -> set[Step | None]:
    """Report every finding; return the first steps to what is bad, None for the whole."""
    bad: set[Step | None] = set()
    for finding in error.errors(include_url=False):
        steps = tuple(step for step in finding["loc"] if step != "[key]")
        bad.add(steps[0] if steps else None)
        place = (*path, *steps)
        misfit = finding.get("ctx", {}).get("error")
        if finding["type"] == "extra_forbidden":
            above = _model_at(kind, steps[:-2]) if len(steps) > 1 else None
            _unknown(document, place, _model_at(kind, steps[:-1]), above)
        elif finding["input"] is BROKEN:
            continue
        elif isinstance(misfit, Misfit):
            on_key = "[key]" in finding["loc"]
            document.report(place, misfit.message, misfit.hint, key=on_key, found=not on_key)
        else:
            message = _PLAIN_MESSAGES.get(finding["type"], finding["msg"])
            document.report(place, message, found=finding["type"] != "too_short")
    return bad


def _model_at(kind: Any, steps: tuple[Step, ...]) -> Any:
    for step in steps:
        fields = {field.alias or name: field.annotation for name, field in _model(kind).model_fields.items()}
        kind = fields[str(step)]
    return _model(kind)


def _model(kind: Any) -> Any:
    return _models(kind)[0]


def _unknown(document: Document, path: Path, model: Any, above: Any = None) -> None:
    known, word = _keys_of(model), str(path[-1])
    hint = near(word, known) or _elsewhere(word, path, model, above) or f"known here: {', '.join(known)}"
    document.report(path, "unknown key", hint, key=True)


def _elsewhere(word: str, path: Path, model: Any, above: Any) -> str:
    """Say where a key belongs that stands one level too high or too deep."""
    if above is not None and word in _keys_of(above):
        return f"it belongs beside {quoted(str(path[-2]))}, one level up"
    below = [
        field.alias or name
        for name, field in model.model_fields.items()
        if any(word in _keys_of(inner) for inner in _models(field.annotation))
    ]
    return f"it belongs below {either(below)}: indent it further" if below else ""


def _keys_of(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(kind: Any) -> list[type[BaseModel]]:
    options = getattr(kind, "__args__", ()) or (kind,)
    return [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]


def _named(document: Document, path: Path) -> bool:
    """Whether the last step is a name that logs, metrics and other keys can use."""
    try:
        _adapter(kinds.Name).validate_python(path[-1])
    except ValidationError as error:
        misfit: Misfit = error.errors()[0]["ctx"]["error"]
        document.report(path, f"{misfit.message}, found {quoted(str(path[-1]))}", misfit.hint, key=True)
        return False
    return True


# -- callers: a kind is chosen by its keyword ----------------------------------------------------------------------


def _callers(document: Document, parsed: Parsed, value: Any) -> None:
    if not isinstance(value, dict):
        parsed.apps_unread = True
        document.report(("callers",), "expected a mapping of keys", found=True)
        return
    for key in value.keys() - schema.CallersKeys.model_fields.keys():
        _unknown(document, ("callers", key), schema.CallersKeys)
    if "session" in value and value["session"] is not BROKEN:
        parsed.sessions = _sessions(document, value["session"])
    apps = value.get("apps", {})
    if isinstance(apps, dict):
        for name, item in apps.items():
            if _named(document, ("callers", "apps", name)):
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
    kinds_read = [kind for kind in found if kind is not None]
    return kinds_read if kinds_read or not value else None


def _kind(document: Document, path: Path, known: Mapping[str, type], value: Any, **more: str) -> Any:
    if value is BROKEN:
        return None
    keyword = _keyword(document, path, known, value)
    if keyword is None:
        return None
    kind = known[keyword]
    read = _value(document, path, schema.caller_keys(kind), value)
    for key in schema.caller_required(kind):
        if key not in value:
            document.report((*path, key), f"is missing beside {quoted(keyword)}")
    if read is None:
        return None
    members = {key: getattr(read, key) for key in type(read).model_fields if getattr(read, key) is not None}
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
