"""Who may come in where: listeners, the admin listener, apps. No door is left open by oversight. Pure."""

from __future__ import annotations

from dataclasses import fields
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from sidecar.config import addresses
from sidecar.config.compiling import default_sessions
from sidecar.config.finding import Finding, World, spot
from sidecar.config.problems import near, quoted
from sidecar.settings import Address, Admin, Login, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.config.reading import Path
    from sidecar.config.sections import Parsed
    from sidecar.model import Origin

LOGIN_BIND = Login("", (), "", ()).bind


def apps_are_known(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """`allow` names apps of `callers.apps` or of a listener, and a listener's app is named somewhere else."""
    on_listeners = {entry.model.app for entry in parsed.listeners if entry.model.app}
    known = sorted(parsed.apps.keys() | on_listeners)
    allowed = {name for route in parsed.routes for name in route.model.allow or ()}
    for route in parsed.routes:
        for at, name in enumerate(route.model.allow or ()):
            if name not in known:
                hint = near(name, known) or "apps are named under callers.apps or by a listener's app"
                yield Finding(route.at("allow", at), "unknown app", hint, found=True)
    for entry in parsed.listeners:
        name = entry.model.app
        if name and parsed.apps and name not in parsed.apps.keys() | allowed:
            yield Finding(entry.at("app"), "unknown app", near(name, sorted(parsed.apps.keys() | allowed)), found=True)


def apps_have_their_own_proofs(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Two apps with one proof could stand for each other."""
    seen: dict[object, str] = {}
    for name, kind in parsed.apps.items():
        if kind is None:
            continue
        members = [getattr(kind, member.name) for member in fields(type(kind)) if member.name != "app"]  # type: ignore[arg-type]
        proof = (kind.keyword, *(text.lower() if isinstance(text, str) else text for text in members))
        if proof in seen:
            message = f"has the same proof as {quoted(seen[proof])}"
            yield Finding(("callers", "apps", name), message, "give each app a key of its own", key=True)
        seen.setdefault(proof, name)


def proofs_are_no_sessions(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """One header line cannot hold an app's key and a session's id."""
    sessions = parsed.sessions if parsed.sessions_given else default_sessions()
    taken = {carrier for session in sessions or () for carrier in session.carriers}
    for name, kind in parsed.apps.items():
        if kind is not None and kind.carriers & taken:
            message = "this header holds the session's id already (callers.session)"
            yield Finding(("callers", "apps", name), message, "use two headers", key=True)


def upstreams_are_elsewhere(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Refuse routes to the sidecar itself: a loop, or a way round the admin token."""
    for route in parsed.routes:
        if route.model.upstream is not None:
            for door in _doors(parsed):
                if _reaches(route.model.upstream.origin, door.bind):
                    yield Finding(route.at("upstream"), f"this is the sidecar's own {door.what}", "name the API itself")


class Door(NamedTuple):
    """One address of the sidecar: the key that names it, None for a default, and what is there."""

    path: Path | None
    bind: Address
    what: str


def _reaches(origin: Origin, address: Address) -> bool:
    if address.path or origin.port != address.port:
        return False
    hosts = (origin.host, address.host)
    here = all(addresses.is_loopback(host) or addresses.is_everywhere(host) for host in hosts)
    several = any(addresses.is_everywhere(host) or host.endswith("localhost") for host in hosts)
    return origin.host == address.host or (here and several)


def _listeners(parsed: Parsed) -> Iterator[Door]:
    if "listeners" not in parsed.given:
        yield from (Door(None, listener.bind, "listener") for listener in Settings().listeners)
    for entry in parsed.listeners:
        if entry.model.bind is not None:
            yield Door(entry.at("bind"), entry.model.bind, "listener")


def admin_bind(parsed: Parsed) -> Address | None:
    """Return where the admin listener is, None where the file's word on it could not be read."""
    if "admin" not in parsed.given:
        return Admin().bind
    admin = parsed.single.get("admin")
    if admin is None or (admin.model.bind is None and "bind" in admin.given):
        return None
    bind: Address | None = admin.model.bind
    return bind or Admin().bind


def listeners_are_there(parsed: Parsed, world: World) -> Iterator[Finding]:
    """At least one listener; the folder of a unix socket exists."""
    if "listeners" in parsed.given and not parsed.listeners:
        yield Finding(("listeners",), "expected at least one listener", "leave the key out for 127.0.0.1:8080")
    for path, bind, _what in _doors(parsed):
        folder = str(PurePosixPath(bind.path).parent)
        if path and bind.path and not world.is_folder(folder):
            yield Finding(path, f"the socket's folder {quoted(folder)} does not exist", "create it first")


def _admin(parsed: Parsed) -> Iterator[Door]:
    bind, admin = admin_bind(parsed), parsed.single.get("admin")
    if bind is not None:
        yield Door(("admin", "bind") if admin is not None and admin.model.bind else None, bind, "admin address")


def _login(parsed: Parsed) -> Iterator[Door]:
    login = parsed.single.get("login")
    if login is not None and (login.model.bind is not None or "bind" not in login.given):
        yield Door(login.at("bind") if login.model.bind else None, login.model.bind or LOGIN_BIND, "sign-in address")


def _doors(parsed: Parsed) -> list[Door]:
    return [*_listeners(parsed), *_admin(parsed), *_login(parsed)]


def addresses_differ(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Two doors cannot share one address. Of two the one is told that the file names, and the later one."""
    written = [door for door in _doors(parsed) if door.path is not None]
    others = [door for door in _doors(parsed) if door.path is None]
    for at, door in enumerate(written):
        for other in (*others, *written[:at]):
            if _same_address(door.bind, other.bind):
                where = "" if other.path else f", by default at {other.bind}"
                hint = "choose another port" if not door.bind.path else "choose another path"
                yield Finding(door.path or (), f"the {other.what} has this address already{where}", hint)
                break


def _same_address(one: Address, other: Address) -> bool:
    if one.path or other.path:
        return one.path == other.path
    hosts = {one.host, other.host}
    everywhere = any(map(addresses.is_everywhere, hosts))
    loopback = "localhost" in hosts and all(map(addresses.is_loopback, hosts))
    return one.port == other.port != 0 and (len(hosts) == 1 or everywhere or loopback)


def admin_is_guarded(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Keep the session API from the network."""
    bind = admin_bind(parsed)
    if bind is None or bind.path or addresses.is_loopback(bind.host) or "token" in parsed.single["admin"].given:
        return
    hint = "add `token: ${ADMIN_TOKEN}`, or bind to 127.0.0.1"
    yield Finding(("admin", "bind"), "an admin bind beyond loopback needs a token", hint, found=True)


def listeners_are_guarded(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Keep the application's own token from anyone on the network."""
    open_routes = [route for route in parsed.routes if route.model.as_ == "app" and "allow" not in route.given]
    if parsed.apps or not open_routes or parsed.apps_unread:
        return
    for entry in parsed.listeners:
        bind = entry.model.bind
        if bind is None or bind.path or addresses.is_loopback(bind.host) or "app" in entry.given:
            continue
        message = f"beyond loopback and without callers.apps, anyone could use {spot(open_routes[0])} (`as: app`)"
        yield Finding(entry.at("bind"), message, "name the apps under callers.apps, or bind to 127.0.0.1")
