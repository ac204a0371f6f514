"""What the keys of `login` and `sessions` mean together and beside the other sections. Pure.

OpenID Connect Core section 3.1.2.1 (scope, redirect URI), RFC 9700 section 4.1, RFC 6265bis section 4.1.3 (prefixes).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sidecar.config import addresses
from sidecar.config.compiling import HOST_PREFIX, login_cookie
from sidecar.config.finding import Finding, World, bad_keys
from sidecar.config.problems import near
from sidecar.oauth.authorization import OWN_PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sidecar.callers import SessionKind
    from sidecar.config.sections import Entry, Parsed

SHORTEST = 300.0
"""Seconds. The time of last use is stored about once a minute, so a shorter life would end sessions in use."""
_SECONDS = re.compile(r"[0-9]{1,9}")
_NEEDED = ("issuer", "authorization_endpoint", "jwks_uri")


def _login(parsed: Parsed) -> Entry | None:
    login: Entry | None = parsed.single.get("login")
    return login


def _names(parsed: Parsed, login: Entry) -> list[str]:
    return login.model.provider or ([] if "provider" in login.given else list(parsed.providers))


def login_has_a_provider(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Every provider of `login` is known and named once; without a name there is exactly one."""
    login = _login(parsed)
    if login is None:
        return
    known = list(parsed.providers)
    if "provider" not in login.given and len(known) != 1:
        among = f"there is more than one provider ({', '.join(known)})" if known else "there is no provider"
        yield Finding(login.at("provider"), f"is missing: {among}", "say which one signs users in")
    names = login.model.provider or []
    for at, name in enumerate(names):
        path = login.at("provider") if len(names) == 1 else login.at("provider", at)
        if name not in known:
            hint = near(name, known) or (f"providers here: {', '.join(known)}" if known else "there are no providers")
            yield Finding(path, "unknown provider", hint, found=True)
        elif name in names[:at]:
            yield Finding(path, "this provider stands in the list already", "keep one of the two", found=True)


def login_providers_are_complete(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """A provider whose endpoints are written by hand needs those of a sign-in too."""
    login = _login(parsed)
    for name in _names(parsed, login) if login else ():
        entry = parsed.providers.get(name)
        if entry is None or "token_endpoint" not in entry.given:
            continue
        for key in _NEEDED:
            if key not in entry.given:
                message = "is missing: `login` signs users in there, and with `token_endpoint` nothing is discovered"
                yield Finding(entry.at(key), message, f"write `{key}`, or leave token_endpoint out")


def login_asks_for_an_id_token(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Without `openid` nobody says who signed in."""
    login = _login(parsed)
    if login is not None and login.model.scope and "openid" not in frozenset().union(*login.model.scope):
        yield Finding(login.at("scope"), "expected `openid` among the scopes", "without it there is no ID token")


def login_is_encrypted(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Session cookies and codes travel over TLS, but for a browser on this very machine."""
    login = _login(parsed)
    if login is None:
        return
    urls = [(login.at("public_url"), login.model.public_url)] if login.model.public_url else []
    places = login.model.return_to or []
    urls += [(login.at("return_to") if len(places) == 1 else login.at("return_to", at), place)
             for at, place in enumerate(places)]  # fmt: skip
    for path, url in urls:
        origin = addresses.origin_of(url)
        if origin.scheme != "https" and not addresses.is_loopback(origin.host):
            yield Finding(path, "browsers would send it unencrypted", "use https://; http:// is for loopback alone")


def login_cookie_is_looked_for(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """The cookie that a sign-in sets is one that `callers.session` looks for, and one that browsers accept."""
    login = _login(parsed)
    if login is None or "cookie" in bad_keys(login):
        return
    if parsed.sessions is not None and login_cookie(login.model, parsed.sessions) is None:
        named = "cookie" in login.given
        message = "callers.session looks for no such cookie" if named else "callers.session looks for no cookie"
        path = login.at("cookie") if named else login.path
        yield Finding(path, message, "add {cookie: sidecar_session} there, or leave it out for its default", key=True)
    yield from _guarded_in_vain(login, parsed.sessions)


def _guarded_in_vain(login: Entry, sessions: Iterable[SessionKind] | None) -> Iterator[Finding]:
    """A prefix of the cookie's name over http: the browser would forget each session at once."""
    if not (login.model.public_url or "").startswith("http:"):
        return
    if login.model.cookie and _is_guarded(login.model.cookie):
        yield Finding(login.at("cookie"), "browsers accept this prefix over https alone", "take it away", found=True)
    elif not login.model.cookie and _is_guarded((login_cookie(login.model, sessions or ()) or ("", ""))[1]):
        message = "callers.session names a cookie with a prefix that browsers accept over https alone"
        yield Finding(login.at("public_url"), message, "take the prefix away, or give public_url https://")


def _is_guarded(cookie: str) -> bool:
    return cookie.lower().startswith((HOST_PREFIX.lower(), "__secure-"))  # browsers take any case


def login_parameters_are_its_own(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Extra parameters replace none of those that keep a sign-in safe."""
    login = _login(parsed)
    for name in (login.model.params or {}) if login else ():
        if login is not None and name in OWN_PARAMETERS:
            yield Finding(login.at("params", name), "the sidecar sets this parameter itself", "remove it", key=True)


def login_max_age_is_a_number(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """`max_age` is not only sent: the answer is judged by it."""
    login = _login(parsed)
    given = (login.model.params or {}).get("max_age") if login else None
    if login is not None and given is not None and not _SECONDS.fullmatch(given):
        yield Finding(login.at("params", "max_age"), "expected a whole number of seconds, such as 3600")


def sessions_live_long_enough(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """A lifetime that is shorter than the record of uses is exact."""
    sessions = parsed.single.get("sessions")
    if sessions is not None and sessions.model.idle is not None and sessions.model.idle < SHORTEST:
        message = "expected at least 5m: the time of last use is not stored more often"
        yield Finding(sessions.at("idle"), message, found=True)
    if sessions is not None and sessions.model.absolute is not None and sessions.model.absolute < SHORTEST:
        message = "expected at least 5m: users would sign in and be signed out at once"
        yield Finding(sessions.at("absolute"), message, "a number without a unit is in seconds", found=True)
