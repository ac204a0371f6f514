"""What the keys of a route mean together, and two routes beside each other. Pure. RFC 9700 sections 2.3 and 2.6."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.config import addresses
from sidecar.config.finding import BEYOND, Finding, World, bad_keys, spot
from sidecar.config.problems import either, near
from sidecar.grants import GRANTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.config.sections import Entry, Parsed

_TOKEN_KEYS = ("provider", "grant", "scope", "audience", "resource", "params", "header", "scheme", "replay")


def routes_are_there(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Nothing at all to do is a mistake: an ordinary proxy says `unmatched: forward` or allows tunnels."""
    tunnels = parsed.single.get("tunnels")
    tunnelled = "tunnels" in parsed.given and (tunnels is None or tunnels.allow != [])
    if parsed.single.get("unmatched") == "forward" or tunnelled:
        return
    if "routes" not in parsed.given:
        yield Finding(("routes",), "is missing: without routes nothing is forwarded")
    elif parsed.no_routes:
        hint = "an ordinary proxy says `unmatched: forward`"
        yield Finding(("routes",), "expected at least one route: without routes nothing is forwarded", hint)


def providers_are_known(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Every token route has one provider, named or the only one."""
    names = list(parsed.providers)
    for route in parsed.routes:
        named = route.model.provider
        if named is not None and named not in names:
            hint = near(named, names) or (f"providers here: {', '.join(names)}" if names else "there are no providers")
            yield Finding(route.at("provider"), "unknown provider", hint, found=True)
        elif "provider" not in route.given and route.model.as_ in ("app", "user") and len(names) != 1:
            yield _unnamed(route, names)


def _unnamed(route: Entry, names: list[str]) -> Finding:
    if names:
        message = f"is missing: there is more than one provider ({', '.join(names)})"
        return Finding(route.at("provider"), message, "say which one issues this route's token")
    message = "is missing: there is no provider to issue this route's token"
    return Finding(route.at("provider"), message, "add one under `providers`")


def route_names_are_unique(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Give each name to one route: logs, metrics and `sidecar explain` tell routes apart by it."""
    seen: dict[str, Entry] = {}
    for route in parsed.routes:
        name = route.model.name
        if name in seen:
            yield Finding(route.at("name"), f"{spot(seen[name])} has this name already", "names are unique", found=True)
        elif name is not None:
            seen[name] = route


def routes_match_something(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Ask every route for a host or a path, and `strip_prefix` for a prefix."""
    for route in parsed.routes:
        match = route.model.match
        if match is None:
            continue
        if match.host is None and match.path is None:
            yield Finding(route.at("match"), "expected a host, a path or both")
        elif route.model.strip_prefix and match.path in (None, "/"):
            yield Finding(route.at("strip_prefix"), "strip_prefix needs match.path: there is no prefix to take away")


def routes_differ(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Two routes that take the same request: nobody can say whose token it gets.

    A route that names methods goes before one that does not, so these two are not ambiguous.
    """
    seen: dict[tuple[object, ...], list[Entry]] = {}
    for route in parsed.routes:
        match = route.model.match
        if match is None:
            continue
        place = (*(match.host or ("", 0)), match.path or "/", match.methods is None)
        for other in seen.get(place, ()):
            if match.methods is None or {*match.methods} & {*other.model.match.methods}:
                message = f"takes the same requests as {spot(other)}: same host, port, path and methods"
                yield Finding(route.at("match"), message, "make them differ in host, path or methods")
                break
        seen.setdefault(place, []).append(route)


def none_has_no_token(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """`as: none` forwards without a token: keys about tokens contradict it."""
    for route in parsed.routes:
        for key in _TOKEN_KEYS if route.model.as_ == "none" else ():
            if key in route.given:
                hint = f"remove `{key}`, or say whose token it is: app or user"
                yield Finding(route.at(key), "has no meaning with `as: none`, which sends no token", hint, key=True)


def grants_fit(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Ask for a grant that is for whom the route is."""
    for route in parsed.routes:
        as_, grant = route.model.as_, route.model.grant
        if as_ in ("app", "user") and grant is not None and as_ != GRANTS[grant].AS:
            fitting = [name for name, kind in GRANTS.items() if as_ == kind.AS]
            yield Finding(route.at("grant"), f"expected {either(fitting)} with `as: {as_}`", found=True)


def users_have_sessions(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """`as: user` needs a place where the session's id stands."""
    if parsed.sessions == []:
        for route in parsed.routes:
            if route.model.as_ == "user":
                hint = "callers.session is empty: name a cookie or a header there, or leave it out for its default"
                yield Finding(route.at("as"), "`as: user` needs a session source", hint)


def tokens_go_encrypted(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Let a token leave this machine over TLS, unless the file says that it need not."""
    for route in parsed.routes:
        model = route.model
        if model.upstream is None or model.upstream.origin.scheme == "https":
            continue
        trusted = model.insecure or "insecure" in bad_keys(route) or addresses.is_loopback(model.upstream.origin.host)
        if model.as_ in ("app", "user") and not trusted:
            message = "a token would leave this machine unencrypted"
            yield Finding(route.at("upstream"), message, f"use https://, or {BEYOND}")
        if model.tls is not None:
            yield Finding(route.at("tls"), "tls has no meaning with an http:// upstream", key=True)
