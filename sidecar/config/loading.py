"""From a file to `Settings`, or to every problem that it has: the road through this package, on one screen."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.config import door_rules
from sidecar.config.addresses import is_loopback
from sidecar.config.compiling import compiled
from sidecar.config.contents import digest
from sidecar.config.document import Document, unreadable
from sidecar.config.finding import World
from sidecar.config.lines import Lines
from sidecar.config.problems import ConfigError, Problem, quoted
from sidecar.config.reading import LARGEST, Flaw, Node, UnreadableError, decode, read
from sidecar.config.reading import Mapping as MappingNode
from sidecar.config.references import Files, expand
from sidecar.config.rules import judge
from sidecar.config.sections import Parsed, parse
from sidecar.settings import KIB, MIB, Tls
from sidecar.stores import STORES, place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sidecar.model import Secret
    from sidecar.settings import Address, Limits, Settings


def load(path: str | Path, environ: Mapping[str, str]) -> Settings:
    """Return the configuration of the YAML file at `path`; raise `ConfigError` with every problem in it.

    `environ` is where `${NAME}` looks; `${file:PATH}` starts at the file's own folder. No other exception is raised.
    """
    name = str(path)
    files = Files(Path(name).parent)
    document, parsed = _read(name, files, environ)
    if parsed is None:
        raise ConfigError(document.problems)
    for finding in judge(parsed, _world(files)):
        document.report(finding.path, finding.message, finding.hint, key=finding.key, found=finding.found)
    document.finish()
    if document.problems:
        raise ConfigError(document.problems, files.held)
    settings = _settings(name, parsed, files, document.bare)
    return replace(settings, seen=digest(settings.files, files.held))


def admin_bind(path: str | Path, environ: Mapping[str, str]) -> Address | None:
    """Return where the admin listener is by the YAML file at `path`, whatever else is wrong in it."""
    try:
        _, parsed = _read(str(path), Files(Path(path).parent), environ)
    except ConfigError:
        return None
    return door_rules.admin_bind(parsed) if parsed else None


def _read(name: str, files: Files, environ: Mapping[str, str]) -> tuple[Document, Parsed | None]:
    """Return the sections of the file, None where it has none; what is wrong with them is in the document."""
    files.note(Path(name).name)
    lines, root, flaws = _tree(name, _bytes(name))
    document = Document(lines, root, flaws)
    parsed = parse(document, document.data(partial(expand, environ=environ, read=files.text)))
    return document, parsed if isinstance(root, MappingNode) else None


def _bytes(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            return file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else None
        message = f"the file cannot be read: {cause or 'this is no file name'}"
        raise ConfigError([Problem(name, 0, 0, "", message, "is the path right?")]) from None


def _tree(name: str, data: bytes) -> tuple[Lines, Node, list[Flaw]]:
    lines = Lines(name, "")
    try:
        text = decode(data)
        lines = Lines(name, text)
        root, flaws = read(text)
    except UnreadableError as error:
        raise ConfigError([unreadable(lines, error)]) from None
    return lines, root, flaws


def _world(files: Files) -> World:
    return World(
        is_file=files.is_file,
        tls_fault=cache(partial(_tls_fault, files)),
        is_folder=lambda name: Path(name).is_dir(),
        place=place,
        check_key=_check_key,
        store_kinds=tuple(STORES),
    )


def _tls_fault(files: Files, ca: str | None, cert: str | None, key: str | None) -> str:
    from sidecar.wire.dial import client_context  # noqa: PLC0415 - ssl only where there are such files

    ours = {"ca": (ca,), "cert": (None, cert, key)}
    for fault, names in ours.items():
        try:
            if any(names):
                client_context(Tls(*(name and files.absolute(name) for name in names)))
        except OSError:  # ssl.SSLError among them
            return fault
    return ""


def _check_key(key: Secret) -> None:
    from sidecar.credentials.vault import parse_key  # noqa: PLC0415 - cryptography only where there are keys

    parse_key(key)


def _settings(name: str, parsed: Parsed, files: Files, bare: list[str]) -> Settings:
    settings = compiled(parsed, files.absolute)
    own = files.absolute(Path(name).name)
    tls = [entry.tls for entry in settings.providers.values()] + [route.tls for route in settings.routes]
    watched = dict.fromkeys([own, *files.names, *_tls_files(tls)])
    return replace(settings, files=tuple(watched), warnings=tuple(_warnings(settings, files, bare)))


def _tls_files(tls: list[Tls | None]) -> list[str]:
    return [name for part in tls if part for name in (part.ca, part.cert, part.key) if name]


def _warnings(settings: Settings, files: Files, bare: list[str]) -> list[str]:
    """Return what is allowed and deserves a second look."""
    starred = [route.name for route in settings.routes if "*" in route.match.path]
    places = [place for place in (settings.login.return_to if settings.login else ()) if "*" in place]
    return [
        *(f"every user of this machine can read the file {name}" for name in sorted(files.open_to_all)),
        *(f"{place} is kept as it stands: a variable is written ${{NAME}}, a dollar sign alone $$" for place in bare),
        *(f"the * in the path of route {name} is a plain character: a path takes all below it" for name in starred),
        *(f"the * in login.return_to {place} is a plain character: all below a place is allowed" for place in places),
        *(f"the comma is part of the scope {scope}: scopes are separated by spaces" for scope in _commas(settings)),
        *_closed_to_the_network(settings),
        *_beyond_the_sign_in(settings),
        *_unusable(settings.limits),
        *(f"the token of route {name} may travel unencrypted (insecure)" for name in _exposed(settings)),
    ]


def _beyond_the_sign_in(settings: Settings) -> Iterator[str]:
    login = settings.login
    for route in settings.routes if login else ():
        if login and route.spec and route.as_ == "user" and route.provider in login.providers:
            for scope in sorted(route.spec.scopes - {*login.scopes, "openid", "offline_access"}):
                yield f"login.scope lacks {quoted(scope)}, which route {route.name} wants: few providers grant it later"


def _closed_to_the_network(settings: Settings) -> Iterator[str]:
    """Yield the listeners that the network reaches, and that refuse it what is for no user: no app can prove itself."""
    forwards = settings.unmatched == "forward" or any(route.as_ == "none" for route in settings.routes)
    if settings.apps or not (forwards or settings.tunnels):
        return
    for bind in (listener.bind for listener in settings.listeners if listener.app is None):
        if not bind.path and not is_loopback(bind.host):
            yield f"without callers.apps listener {bind} refuses callers beyond loopback, but on `as: user` routes"


def _commas(settings: Settings) -> list[str]:
    asked = [route.spec.scopes for route in settings.routes if route.spec]
    asked += [frozenset(settings.login.scopes)] if settings.login else []
    return sorted({quoted(scope) for scopes in asked for scope in scopes if "," in scope})


def _unusable(limits: Limits) -> Iterator[str]:
    """Yield the sizes that leave no room for any request: a unit is missing."""
    for name, value, least in (("headers", limits.headers, KIB), ("memory", limits.memory, 48 * MIB)):
        if value and value < least:
            yield f"limits.{name} of {value} bytes leaves no room for any request: is its unit missing?"


def _exposed(settings: Settings) -> list[str]:
    return [
        route.name for route in settings.routes if route.insecure and route.upstream.scheme == "http" and route.spec
    ]
