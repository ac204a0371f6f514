"""`login` and `sessions`: what they compile to, and every way to get them wrong, each with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from sidecar.callers.cookie import Cookie
from sidecar.config import changed_routes
from sidecar.settings import Address, Login, SessionLife
from tests.support.config import places, problems, settings

if TYPE_CHECKING:
    from pathlib import Path

IDP = "  idp: {issuer: https://login.example.com, client_id: app, client_secret: '${SECRET}'}\n"
SECOND = "  second: {issuer: https://second.example.com, client_id: app, client_secret: '${SECRET}'}\n"
ROUTE = "routes:\n  - {match: {host: a.internal}, upstream: https://a.example.com, as: user, provider: idp}\n"
URL = "public_url: https://app.example.com"


def text(login: str, more: str = "", providers: str = IDP) -> str:
    return f"providers:\n{providers}{ROUTE}{more}\nlogin: {{{login}}}\n"


def login_of(folder: Path, login: str, more: str = "", providers: str = IDP) -> Login:
    found = settings(folder, text(login, more, providers)).login
    assert found is not None
    return found


def test_smallest_login_has_its_defaults(tmp_path: Path) -> None:
    """One line: the only provider, openid, the origin's root, loopback, a guarded cookie."""
    assert login_of(tmp_path, URL) == Login(
        "https://app.example.com", ("idp",), "__Host-sidecar_session", ("https://app.example.com/",), ("openid",),
        Address("127.0.0.1", 8082), "auto", (),
    )  # fmt: skip


def test_whole_login_is_taken(tmp_path: Path) -> None:
    """Every key; openid comes first, the rest in one order."""
    found = login_of(
        tmp_path,
        "bind: 0.0.0.0:9000, public_url: 'HTTPS://App.Example.com:443/', provider: [second, idp], scope: [b a, openid], "
        "return_to: [https://app.example.com/x/, http://localhost:3000], cookie: sid, par: require, "
        "resource: [https://b.example.com, https://a.example.com/x], params: {prompt: login}, audience: api",
        "callers: {session: [{header: X-S}, {cookie: other}, {cookie: sid}]}\n",
        IDP + SECOND,
    )
    assert found == Login(
        "https://app.example.com", ("second", "idp"), "sid", ("https://app.example.com/x/", "http://localhost:3000/"),
        ("openid", "a", "b"), Address("0.0.0.0", 9000), "require", (("prompt", "login"),),
        ("https://b.example.com", "https://a.example.com/x"), "api",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("url", "named", "callers", "cookie"),
    [
        ("https://a.example", "", "", "__Host-sidecar_session"),
        ("http://localhost:8082", "", "", "sidecar_session"),
        ("http://127.0.0.1:8082", "", "", "sidecar_session"),
        ("https://a.example", ", cookie: sid", "", "sid"),
        ("https://a.example", ", cookie: __Secure-sid", "", "__Secure-sid"),
        ("https://a.example", "", "[{header: X-S}, {cookie: sid}, {cookie: two}]", "__Host-sid"),
        ("https://a.example", "", "[{cookie: __Host-sid}]", "__Host-sid"),
        ("https://a.example", "", "[{cookie: __Secure-sid}]", "__Secure-sid"),
        ("https://a.example", ", cookie: two", "[{cookie: sid}, {cookie: two}]", "two"),
    ],
)
def test_one_place_decides_the_name_of_the_cookie(
    url: str, named: str, callers: str, cookie: str, tmp_path: Path
) -> None:
    """What a sign-in sets is what callers are looked for by, and what stays off the upstream."""
    more = f"callers: {{session: {callers}}}\n" if callers else ""
    made = settings(tmp_path, text(f"public_url: '{url}'{named}", more))
    assert made.login is not None
    assert made.login.cookie == cookie
    found = [kind.cookie for kind in made.sessions if isinstance(kind, Cookie)]
    assert found.count(cookie) == 1
    assert len(found) == max(callers.count("cookie"), 1)
    written = [kind for kind in made.sessions if isinstance(kind, Cookie) and kind.cookie == cookie]
    assert written[0].cookies == frozenset([cookie.encode()])


def test_without_login_nothing_is_renamed(tmp_path: Path) -> None:
    """The names of `callers.session` are the application's own."""
    made = settings(tmp_path, f"providers:\n{IDP}{ROUTE}")
    assert made.login is None
    assert [kind.cookie for kind in made.sessions if isinstance(kind, Cookie)] == ["sidecar_session"]


def test_lifetimes_are_taken(tmp_path: Path) -> None:
    """In days too."""
    assert settings(tmp_path, text(URL)).session_life == SessionLife(7 * 86400, 30 * 86400)
    made = settings(tmp_path, text(URL, "sessions: {idle: 8h, absolute: 2d}\n"))
    assert made.session_life == SessionLife(8 * 3600, 2 * 86400)


def test_change_is_told_by_the_files_own_words(tmp_path: Path) -> None:
    """In the log of a reload."""
    old = settings(tmp_path, text(URL))
    new = settings(tmp_path, text(URL + ", par: never", "sessions: {idle: 8h}\n"))
    assert set(changed_routes(old, new)) == {"login altered", "sessions altered"}


class Case(NamedTuple):
    """A configuration with ▶ at the problem's place, its key, and words of its message."""

    id: str
    text: str
    key: str
    message: str


HAND = "  idp: {token_endpoint: https://l.example.com/t, client_id: app, client_secret: '${SECRET}'"
CASES = [
    Case("no-public-url", text("par: auto").replace("login: {", "▶login: {"), "login.public_url", "is missing: the origin"),
    Case("public-url-no-url", text("public_url: ▶app.example.com"), "login.public_url", "expected an origin"),
    Case("public-url-with-a-path", text("public_url: ▶https://app.example.com/auth"), "login.public_url", "expected an origin"),
    Case("public-url-with-a-query", text("public_url: ▶'https://app.example.com/?x'"), "login.public_url", "expected an origin"),
    Case("public-url-with-a-user", text("public_url: ▶https://u@app.example.com"), "login.public_url", "expected an origin"),
    Case("public-url-other-scheme", text("public_url: ▶ftp://app.example.com"), "login.public_url", "expected an origin"),
    Case("public-url-http-beyond-loopback", text("public_url: ▶http://app.example.com"), "login.public_url", "unencrypted"),
    Case("unknown-provider", text(f"{URL}, provider: ▶ipd"), "login.provider", "unknown provider, found 'ipd'"),
    Case("unknown-provider-in-a-list", text(f"{URL}, provider: [idp, ▶nobody]"), "login.provider[1]", "unknown provider"),
    Case("provider-twice", text(f"{URL}, provider: [idp, ▶idp]"), "login.provider[1]", "stands in the list already"),
    Case("no-provider-named", text(URL, providers=IDP + SECOND).replace("login: {", "▶login: {"), "login.provider", "there is more than one provider (idp, second)"),
    Case("provider-list-empty", text(f"{URL}, provider: ▶[]"), "login.provider", "at least one"),
    Case("scope-without-openid", text(f"{URL}, scope: ▶profiles.read"), "login.scope", "expected `openid`"),
    Case("scope-malformed", text(f"{URL}, scope: ▶'openid, x'"), "login.scope", "expected scopes"),
    Case("return-to-relative", text(f"{URL}, return_to: ▶/app"), "login.return_to", "expected a URL"),
    Case("return-to-other-scheme", text(f"{URL}, return_to: [▶javascript:alert(1)]"), "login.return_to[0]", "expected a URL"),
    Case("return-to-without-a-scheme", text(f"{URL}, return_to: [▶//app.example.com/]"), "login.return_to[0]", "expected a URL"),
    Case("return-to-with-a-query", text(f"{URL}, return_to: [▶'https://app.example.com/?x=1']"), "login.return_to[0]", "expected a URL"),
    Case("return-to-with-dots", text(f"{URL}, return_to: [▶https://app.example.com/a/../b]"), "login.return_to[0]", "expected a URL"),
    Case("return-to-wildcard", text(f"{URL}, return_to: [▶'https://*.example.com/']"), "login.return_to[0]", "expected a URL"),
    Case("return-to-http-beyond-loopback", text(f"{URL}, return_to: [https://app.example.com/, ▶http://app.example.com/]"), "login.return_to[1]", "unencrypted"),
    Case("return-to-empty", text(f"{URL}, return_to: ▶[]"), "login.return_to", "at least one"),
    Case("no-cookie-source", text(URL, "callers: {session: [{header: X-S}]}\n").replace("login:", "▶login:"), "login", "callers.session looks for no cookie"),
    Case("cookie-nobody-looks-for", text(f"{URL}, ▶cookie: sid", "callers: {session: [{cookie: other}]}\n"), "login.cookie", "looks for no such cookie"),
    Case("cookie-malformed", text(f"{URL}, cookie: ▶'a b'"), "login.cookie", "expected a cookie name"),
    Case("cookie-prefix-over-http", text("public_url: http://localhost:8082, cookie: ▶__Host-sid"), "login.cookie", "over https alone"),
    Case("cookie-prefix-in-any-case", text("public_url: http://localhost:8082, cookie: ▶__secure-sid"), "login.cookie", "over https alone"),
    Case("callers-cookie-prefix-over-http", text("public_url: ▶http://localhost:8082", "callers: {session: [{cookie: __Host-sid}]}\n"), "login.public_url", "over https alone"),
    Case("par-word", text(f"{URL}, par: ▶yes"), "login.par", "expected 'auto', 'require' or 'never'"),
    Case("params-of-our-own", text(f"{URL}, params: {{▶state: x}}"), "login.params.state", "sets this parameter itself"),
    Case("params-of-pkce", text(f"{URL}, params: {{▶code_challenge_method: plain}}"), "login.params.code_challenge_method", "sets this parameter itself"),
    Case("max-age-no-number", text(f"{URL}, params: {{max_age: ▶1h}}"), "login.params.max_age", "expected a whole number of seconds"),
    Case("unknown-key", text(f"{URL}, ▶redirect: x"), "login.redirect", "unknown key"),
    Case("bind-taken", text(f"{URL}, bind: ▶127.0.0.1:8081"), "login.bind", "the admin address has this address already, by default at 127.0.0.1:8081"),
    Case("default-bind-taken", text(URL, "admin: {bind: ▶127.0.0.1:8082}\n"), "admin.bind", "the sign-in address has this address already, by default"),
    Case("bind-folder", text(f"{URL}, bind: ▶unix:/no/such/folder/x.sock"), "login.bind", "does not exist"),
    Case("route-to-itself", text(f"{URL}, bind: 127.0.0.1:9000").replace("upstream: https://a.example.com", "upstream: ▶http://localhost:9000"), "routes[0].upstream", "the sidecar's own sign-in address"),
    Case("no-mapping", text(URL).replace(f"{{{URL}}}", "▶[a]"), "login", "expected a mapping"),
    Case("nothing", f"providers:\n{IDP}{ROUTE}login:▶\n", "login", "expected a value"),
    Case("by-hand-without-keys", text(URL, providers=HAND.replace("idp:", "▶idp:") + ", issuer: https://l.example.com, authorization_endpoint: https://l.example.com/a}\n"), "providers.idp.jwks_uri", "is missing: `login` signs users in there"),
    Case("by-hand-without-issuer", text(URL, providers=HAND.replace("idp:", "▶idp:") + ", jwks_uri: https://l.example.com/j, authorization_endpoint: https://l.example.com/a}\n"), "providers.idp.issuer", "is missing: `login` signs users in there"),
    Case("end-session-unencrypted", text(URL, providers=IDP.replace("}", ", end_session_endpoint: ▶http://login.example.com/end}", 1).replace("${SECRET, end_session_endpoint: ▶http://login.example.com/end}", "${SECRET}").replace("'}", "', end_session_endpoint: ▶http://login.example.com/end}")), "providers.idp.end_session_endpoint", "unencrypted"),
    Case("idle-too-short", text(URL, "sessions: {idle: ▶1m}\n"), "sessions.idle", "expected at least 5m"),
    Case("absolute-too-short", text(URL, "sessions: {absolute: ▶12}\n"), "sessions.absolute", "expected at least 5m"),
    Case("absolute-zero", text(URL, "sessions: {absolute: ▶0}\n"), "sessions.absolute", "more than 0"),
    Case("lifetime-unit", text(URL, "sessions: {idle: ▶2w}\n"), "sessions.idle", "expected a duration"),
    Case("sessions-unknown-key", text(URL, "sessions: {▶idel: 2d}\n"), "sessions.idel", "unknown key"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_broken_login_is_refused_with_its_place(case: Case, tmp_path: Path) -> None:
    """One problem: where, which key, what was expected."""
    plain, marks = places(case.text)
    found = problems(tmp_path, plain)
    assert [(problem.key, problem.message) for problem in found if case.message in problem.message] == [
        (case.key, found[0].message)
    ]
    assert [(problem.line, problem.column) for problem in found] == marks


def test_several_problems_of_a_login_are_told_at_once(tmp_path: Path) -> None:
    """None hides another."""
    broken = text("public_url: http://app.example.com, provider: nobody, scope: x, return_to: /a, cookie: 'a b'")
    assert [problem.key for problem in problems(tmp_path, broken)] == [
        "login.public_url", "login.provider", "login.scope", "login.return_to", "login.cookie",
    ]  # fmt: skip
