"""What a good configuration means: values, defaults, references, and the strings that YAML 1.1 would change."""

from __future__ import annotations

import dataclasses
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from sidecar.config import load
from sidecar.credentials.vault import generate_key
from sidecar.model import Origin, Secret, TokenSpec
from sidecar.settings import Address, Match, Settings, Tunnel
from tests.support.config import IDP, ROUTE, problems, settings, write

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.settings import ProviderSettings, Route

K1, K2 = generate_key(), generate_key()
FIVE = """\
providers:
  idp: {issuer: https://login.example.com, client_id: legacy-app, client_secret: "${SECRET}"}
routes:
  - {match: {host: stats.internal},    upstream: https://stats.example.com,    as: app,  scope: stats.read}
  - {match: {host: profiles.internal}, upstream: https://profiles.example.com, as: user, scope: profiles.read}
"""


def only_route(folder: Path, text: str) -> Route:
    """Return the one route of a text."""
    [route] = settings(folder, IDP + "routes:\n  - " + text + "\n").routes
    return route


def idp(folder: Path, text: str) -> ProviderSettings:
    """Return the provider `idp` of a text, for a file that needs no secret."""
    base = "providers: {idp: {issuer: https://a, client_auth: none, "
    return settings(folder, base + text + "}}\nunmatched: forward\n").providers["idp"]


def test_five_lines_carry_every_default(tmp_path: Path) -> None:
    """The smallest configuration is the default settings with one provider and two routes."""
    made = settings(tmp_path, FIVE)
    plain = Settings()
    for name in (
        "listeners",
        "admin",
        "store",
        "apps",
        "unmatched",
        "tunnels",
        "destinations",
        "limits",
        "via",
        "access_log",
    ):
        assert getattr(made, name) == getattr(plain, name), name
    assert [getattr(kind, kind.keyword) for kind in made.sessions] == ["sidecar_session", "X-Session-Id"]
    assert [(route.name, route.as_, route.provider, route.grant) for route in made.routes] == [
        ("stats.internal", "app", "idp", "client_credentials"),
        ("profiles.internal", "user", "idp", "session"),
    ]
    assert made.providers["idp"].client_secret == Secret("s3cr3t-canary")
    assert "canary" not in repr(made)


def test_route_is_compiled_completely(tmp_path: Path) -> None:
    """Every key of a route arrives in the settings, with its own type."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    route = only_route(
        tmp_path,
        "{name: x, match: {host: 'A.Internal:8080', path: /api/, methods: [GET, POST]}, upstream: 'HTTPS://B.example.com:8443/v1/', "
        "strip_prefix: true, as: user, scope: 'b a', audience: aud, resource: https://r, params: {p: 1}, header: X-T, "
        "replay: {body_limit: 1MiB, unsafe: never}, timeout: {connect: 500ms, idle: 1h}, tls: {ca: ca.pem, server_name: C.d}}",
    )
    assert route.match == Match("a.internal", 8080, "/api", frozenset({"GET", "POST"}))
    assert (route.upstream, route.base_path, route.strip_prefix) == (
        Origin("https", "b.example.com", 8443),
        "/v1",
        True,
    )
    assert route.spec == TokenSpec(
        "idp",
        "https://login.example.com",
        "app",
        "session",
        "aud",
        ("https://r",),
        frozenset({"a", "b"}),
        (("p", "1"),),
    )
    assert (route.header, route.replay.body_limit, route.replay.unsafe) == ("X-T", 1024 * 1024, "never")
    assert (route.timeout.connect, route.timeout.response, route.timeout.idle) == (0.5, 60.0, 3600.0)
    assert route.tls is not None
    assert (route.tls.ca, route.tls.server_name) == (str(tmp_path / "ca.pem"), "c.d")


def test_sections_are_compiled_completely(tmp_path: Path) -> None:
    """Listeners, admin, store, callers, tunnels, destinations, limits arrive in the settings."""
    made = settings(
        tmp_path,
        IDP + ROUTE + f"listeners: [{{bind: '[::1]:80', app: a}}, {{bind: 'unix:{tmp_path}/s'}}]\n"
        f"admin: {{bind: 0.0.0.0:9, token: t}}\nstore: {{url: 'memory:', keys: [{K1}, {K2}], on_outage: fail}}\n"
        "callers: {session: [{header: X-S}], apps: {a: {basic: k}, b: {header: X-K, key: k}}}\n"
        "tunnels: {allow: ['*.example.com:443', 'A.:1']}\ndestinations: {deny_private: true}\n"
        "limits: {headers: 1KiB, connections: 5, idle_timeout: 1.5}\nunmatched: forward\nvia: me\naccess_log: true\n",
    )
    assert [(listener.bind, listener.app) for listener in made.listeners] == [
        (Address("::1", 80), "a"),
        (Address(path=f"{tmp_path}/s"), None),
    ]
    assert (made.admin.bind, made.admin.token) == (Address("0.0.0.0", 9), Secret("t"))
    assert (made.store.url, made.store.keys, made.store.on_outage) == (
        Secret("memory:"),
        (Secret(K1), Secret(K2)),
        "fail",
    )
    assert [(kind.keyword, kind.app) for kind in made.apps] == [("basic", "a"), ("header", "b")]
    assert [kind.keyword for kind in made.sessions] == ["header"]
    assert made.tunnels == (Tunnel("*.example.com", 443), Tunnel("a", 1))
    assert (made.destinations.deny_private, made.unmatched, made.via, made.access_log) == (True, "forward", "me", True)
    assert (made.limits.headers, made.limits.connections, made.limits.idle_timeout) == (1024, 5, 1.5)
    assert made.limits.target == 8192


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "n",
        "yes",
        "on",
        "1e3",
        "0123",
        "0o14",
        "12:30",
        "1_000",
        "0x1F",
        "1.0",
        "true",
        "2026-11-22",
        "=",
        "-1",
        ".5",
        "'~'",
        '"null"',
    ],
)
def test_text_stays_as_written_whatever_yaml_1_1_makes_of_it(text: str, tmp_path: Path) -> None:
    """A text is never read as a switch, number, time or date first."""
    assert idp(tmp_path, f"client_id: {text}").client_id == text.strip("'\"")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2s", 2), ("500ms", 0.5), ("5m", 300), ("1h", 3600), ("7", 7), ("0.25", 0.25), ("1.5 s", 1.5)],
)
def test_duration_is_in_seconds(text: str, seconds: float, tmp_path: Path) -> None:
    """Units are ms, s, m and h; a plain number is seconds."""
    assert settings(tmp_path, IDP + ROUTE + f"limits: {{idle_timeout: {text}}}").limits.idle_timeout == pytest.approx(
        seconds
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 65536),
        ("64KB", 64000),
        ("1MiB", 1048576),
        ("512", 512),
        ("1.5KiB", 1536),
        ("2 MB", 2000000),
        ("7B", 7),
    ],
)
def test_size_is_in_bytes(text: str, size: int, tmp_path: Path) -> None:
    """KiB is 1024, KB is 1000; a plain number is bytes."""
    assert settings(tmp_path, IDP + ROUTE + f"limits: {{headers: {text}}}").limits.headers == size


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("A.Internal", "a.internal", 0),
        ("a.internal.", "a.internal", 0),
        ("a.internal:8080", "a.internal", 8080),
        ("'*.Suffix.Example'", "*.suffix.example", 0),
        ("'[2001:DB8::0:1]:8080'", "2001:db8::1", 8080),
        ("bücher.example", "xn--bcher-kva.example", 0),
        ("under_score", "under_score", 0),
        ("10.0.0.1", "10.0.0.1", 0),
    ],
)
def test_host_is_normalised(written: str, host: str, port: int, tmp_path: Path) -> None:
    """[CF-09] [CF-13] Case, trailing dot, IDNA and IPv6 spelling do not matter."""
    match = only_route(tmp_path, f"{{match: {{host: {written}}}, upstream: https://a, as: app}}").match
    assert (match.host, match.port) == (host, port)


@pytest.mark.parametrize(
    ("written", "origin", "base"),
    [
        ("https://A.example.com", Origin("https", "a.example.com", 443), ""),
        ("https://a.example.com:443/", Origin("https", "a.example.com", 443), ""),
        ("http://localhost:1/b/c/", Origin("http", "localhost", 1), "/b/c"),
        ("'https://[::1]:8443/x%20y'", Origin("https", "::1", 8443), "/x%20y"),
        ("http://127.0.0.1", Origin("http", "127.0.0.1", 80), ""),
    ],
)
def test_upstream_is_split_into_origin_and_base_path(written: str, origin: Origin, base: str, tmp_path: Path) -> None:
    """[CF-09] Scheme and host in lower case, the default port filled in, no trailing slash."""
    route = only_route(tmp_path, f"{{match: {{host: a}}, upstream: {written}, as: app}}")
    assert (route.upstream, route.base_path) == (origin, base)


def test_scope_from_words_or_list_is_the_same_token(tmp_path: Path) -> None:
    """[PD-03] [CF-15] Scopes are a set; without scope and audience the specification says so explicitly."""
    specs = [
        only_route(tmp_path, f"{{match: {{host: a}}, upstream: https://a, as: app{scope}}}").spec
        for scope in (", scope: a b", ", scope: [b, a]", ", scope: [a b]", "")
    ]
    assert specs[0] == specs[1] == specs[2]
    assert specs[3] == TokenSpec("idp", "https://login.example.com", "app", "client_credentials")


def test_route_params_win_over_the_providers(tmp_path: Path) -> None:
    """Provider's parameters first, then the route's; no parameter twice (RFC 6749 section 3.2)."""
    text = "providers: {idp: {token_endpoint: https://a/t, client_id: c, client_auth: none, params: {x: p, y: p}}}\n"
    [route] = settings(
        tmp_path, text + "routes: [{match: {host: a}, upstream: https://a, as: app, params: {y: r, z: r}}]"
    ).routes
    assert route.spec is not None
    assert route.spec.params == (("x", "p"), ("y", "r"), ("z", "r"))
    assert route.spec.issuer == "https://a/t"


def test_default_route_names_are_made_from_host_and_path_and_unique(tmp_path: Path) -> None:
    """A name for each route; one that is written is never taken for another."""
    rest = "upstream: https://a, as: none}"
    matches = [
        "{host: a}",
        "{host: a, path: /b}",
        "{path: /b}",
        "{host: a, methods: [PUT, GET]}",
        "{host: 'a:1'}",
        "{host: '[::1]'}",
        "{host: c}",
    ]
    routes = (
        "".join(f"  - {{match: {match}, {rest}\n" for match in matches)
        + f"  - {{match: {{host: d}}, name: c, {rest}\n  - {{match: {{path: /}}, {rest}\n"
    )
    names = [route.name for route in settings(tmp_path, "routes:\n" + routes).routes]
    assert names == ["a", "a/b", "b", "a:GET+PUT", "a:1", "[::1]", "c-2", "c", "any"]


def test_routes_that_differ_are_not_ambiguous(tmp_path: Path) -> None:
    """[CF-02] Port, path, wildcard, disjoint methods, and methods against all of them make routes differ."""
    matches = [
        "{host: a}",
        "{host: a, methods: [GET]}",
        "{host: a, methods: [PUT]}",
        "{host: 'a:1'}",
        "{host: '*.a'}",
        "{path: /}",
        "{host: a, path: /x}",
    ]
    text = "routes:\n" + "".join(f"  - {{match: {match}, upstream: https://a, as: none}}\n" for match in matches)
    assert len(settings(tmp_path, text).routes) == len(matches)


# -- what is allowed on purpose ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "routes: [{match: {host: a}, upstream: http://a.example.com, as: none}]",
        IDP + "routes: [{match: {host: a}, upstream: http://a.example.com, as: app, insecure: true}]",
        IDP + "routes: [{match: {host: a}, upstream: 'http://[::1]:1', as: app}]",
        "providers: {idp: {issuer: http://idp:9000, insecure: true, client_id: a, client_auth: none}}\nunmatched: forward",
        "providers: {idp: {issuer: http://localhost:9000, client_id: a, client_auth: none}}\nunmatched: forward",
        "unmatched: forward",
        "tunnels: {allow: [a:443]}",
        IDP + ROUTE + "listeners: [{bind: 0.0.0.0:8080}]\ncallers: {apps: {a: {basic: k}}}",
        IDP + ROUTE + "listeners: [{bind: 0.0.0.0:8080, app: legacy}]",
        IDP + ROUTE.replace("as: app", "as: user") + "listeners: [{bind: 0.0.0.0:8080}]",
        IDP + ROUTE + "listeners: [{bind: 127.0.0.1:0}, {bind: 127.0.0.1:0}]",
        IDP + ROUTE + "callers: {session: []}",
        IDP + ROUTE + "limits: &l {headers: 1KiB}\n",
    ],
)
def test_what_is_meant_is_allowed(text: str, tmp_path: Path) -> None:
    """Loopback, `insecure: true`, apps that prove themselves: none of these is refused."""
    assert settings(tmp_path, text + "\n")


# -- references ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("${NAME}", "idp"),
        ("x-${NAME}-y", "x-idp-y"),
        ("${NAME}${NAME}", "idpidp"),
        ("${NOPE:-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${NAME:-default}", "idp"),
        ("${NAME:?message}", "idp"),
        ("$${NAME}", "${NAME}"),
        ("$$$$", "$$"),
        ("a$b", "a$b"),
        ("'${TRICK}'", "${NAME}\\"),
        ('"${NOPE:-a: [b, c] # d}"', "a: [b, c] # d"),
        ("${file:secret}", "from a file"),
        ("${file:crlf}", "windows"),
        ("${file:two}", "x "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("style", ["block", "flow"])
def test_reference_is_replaced_after_parsing(written: str, read: str, style: str, tmp_path: Path) -> None:
    """A value cannot change the structure and is not expanded again; `$$` is a dollar; files lose one line break."""
    (tmp_path / "secret").write_text("from a file\n")
    (tmp_path / "crlf").write_bytes(b"windows\r\n")
    (tmp_path / "two").write_text("x ")
    environ = {"NAME": "idp", "EMPTY": "", "TRICK": "${NAME}\\"}
    head = "providers:\n  idp:\n    issuer: https://a\n    client_auth: none\n"
    block, flow = f"    client_id: {written}\n", f"    params: {{x: {written}, y: [0]}}\n".replace(", y: [0]", ", y: z")
    text = head + (block if style == "block" else "    client_id: c\n" + flow) + "unmatched: forward\n"
    provider = settings(tmp_path, text, environ).providers["idp"]
    assert (provider.client_id if style == "block" else dict(provider.params)["x"]) == read


@pytest.mark.parametrize(
    ("key", "written", "read"),
    [("access_log", "true", True), ("limits: {connections", "7", 7), ("limits: {head_timeout", "3s", 3.0)],
)
def test_reference_stands_for_any_type(key: str, written: str, read: Any, tmp_path: Path) -> None:
    """A variable's text is read as its key wants it."""
    close = "}" if "{" in key else ""
    made = settings(tmp_path, f"{IDP}{ROUTE}{key}: '${{X}}'{close}\n", {"X": written, "SECRET": "s"})
    name = key.rsplit("{", maxsplit=1)[-1]
    assert (getattr(made.limits, name) if close else getattr(made, name)) == read


def test_files_read_are_listed_for_the_watcher(tmp_path: Path) -> None:
    """The file itself, the files of references, and those of TLS: absolute, each once, links kept."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/secret").write_text("x")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    os.symlink("ca.pem", tmp_path / "link.pem")  # noqa: PTH211
    text = (
        "providers: {idp: {issuer: https://a, client_id: '${file:sub/secret}', client_secret: '${file:sub/../sub/secret}', "
        "tls: {ca: link.pem}}}\nunmatched: forward\n"
    )
    made = settings(tmp_path, text)
    assert made.files == tuple(str(tmp_path / name) for name in ("sidecar.yaml", "sub/secret", "link.pem"))


def test_files_are_found_from_a_relative_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths start at the file's own folder, not at the working directory."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/secret").write_text("x\n")
    write(tmp_path / "conf", "via: ${file:secret}\nunmatched: forward\n")
    monkeypatch.chdir(tmp_path)
    made = load("conf/sidecar.yaml", {})
    assert (made.via, made.files[1]) == ("x", str(tmp_path / "conf/secret"))


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"s\xe9cret", "is not UTF-8 text"),
        (b"\xef\xbb\xbfsecret\n", "starts with a byte order mark"),
        ("secret".encode("utf-16"), "starts with a byte order mark"),
    ],
    ids=["none", "latin-1", "byte-order-mark", "utf-16"],
)
def test_file_that_is_no_text_is_refused_wherever_it_is_named(held: bytes | None, said: str, tmp_path: Path) -> None:
    """[CF-03] What an editor puts before the text would be part of the secret; the second place says the same as the first."""
    if held is not None:
        (tmp_path / "secret").write_bytes(held)
    text = f"admin: {{token: '${{file:secret}}'}}\n{IDP.replace('${SECRET}', '${file:secret}')}{ROUTE}"
    found = problems(tmp_path, text)
    assert [problem.key for problem in found] == ["admin.token", "providers.idp.client_secret"]
    assert all(said in problem.message for problem in found)


def test_secret_file_open_to_all_is_a_warning(tmp_path: Path) -> None:
    """[CF-03] A file that every user may read is told of, by name alone."""
    secret = tmp_path / "secret"
    secret.write_text("s3cr3t-canary\n")
    for mode, count in ((0o600, 0), (0o640, 0), (0o644, 1)):
        secret.chmod(mode)
        warnings = settings(tmp_path, "via: ''\nunmatched: forward\nadmin: {token: '${file:secret}'}\n").warnings
        assert len(warnings) == count, warnings
        assert "canary" not in "".join(warnings)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("folder", "not a regular file"),
        ("fifo", "not a regular file"),
        ("large", "larger than 1 MiB"),
        ("binary", "not UTF-8"),
        ("locked", "cannot be read"),
    ],
)
def test_file_that_is_no_secret_is_refused(kind: str, message: str, tmp_path: Path) -> None:
    """A folder, a pipe (which would block), something large or binary: one problem each."""
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "locked":
        os.symlink("x", path)  # noqa: PTH211 - a link to itself
    else:
        path.write_bytes(b"x" * 2**20 + b"x" if kind == "large" else b"\xff")
    [problem] = problems(tmp_path, "via: ${file:x}\nunmatched: forward\n")
    assert message in problem.message


@pytest.mark.parametrize("value", ["a\nb", "a\x00b", "\ud800", "a b\n"])
def test_secret_with_control_characters_is_refused(value: str, tmp_path: Path) -> None:
    """A second line break in a secret's file is a mistake that a provider would answer with `invalid_client`."""
    [problem] = problems(tmp_path, IDP + "unmatched: forward\n", {"SECRET": value})
    assert problem.key == "providers.idp.client_secret"
    assert "character" in problem.message or "UTF-8" in problem.message


def test_every_settings_field_is_reachable() -> None:
    """A field that no key can set would be a feature that nobody can use."""
    from sidecar.config.schema import File  # noqa: PLC0415 - the names alone

    named = {field.name for field in dataclasses.fields(Settings)} - {
        "sessions",
        "session_life",
        "apps",
        "files",
        "seen",
        "warnings",
    }
    assert named == set(File.model_fields) - {"version", "callers", "sessions"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (IDP.replace("'${SECRET}'", "$SECRET_CANARY") + "unmatched: forward\n", "client_secret is kept as it stands"),
        (
            IDP + "routes:\n  - {match: {path: '/api/*'}, upstream: https://a.example.com, as: app}\n",
            "is a plain character",
        ),
        (
            IDP + "routes:\n  - {match: {host: a}, upstream: https://a.example.com, as: app, scope: 'read,write x'}\n",
            "the comma is part of the scope 'read,write'",
        ),
        (
            IDP + "login: {public_url: https://app.example.com, scope: openid b}\nroutes:\n"
            "  - {name: r, match: {host: a}, upstream: https://a.example.com, as: user, scope: openid offline_access a b}\n"
            "  - {match: {host: b}, upstream: https://a.example.com, as: app, scope: x}\n",
            "login.scope lacks 'a', which route r wants",
        ),
        (
            IDP + "login: {public_url: https://app.example.com, return_to: 'https://app.example.com/*'}\n"
            "unmatched: forward\n",
            "the * in login.return_to https://app.example.com/* is a plain character",
        ),
        (
            "unmatched: forward\nlisteners: [{bind: 127.0.0.1:1}, {bind: '[::]:2'}, {bind: 0.0.0.0:3, app: a}]\n",
            "listener [::]:2 refuses callers beyond loopback",
        ),
        ("unmatched: forward\nlimits: {headers: 64}\n", "limits.headers of 64 bytes leaves no room"),
        ("unmatched: forward\nlimits: {memory: 400}\n", "limits.memory of 400 bytes leaves no room"),
    ],
    ids=[
        "CF-03-shell-variable",
        "RT-star-in-a-path",
        "PD-03-comma-in-a-scope",
        "scope-not-asked-for",
        "star-in-return-to",
        "network-without-apps",
        "header-bytes",
        "memory-bytes",
    ],
)
def test_what_other_programs_would_read_otherwise_is_pointed_out(tmp_path, text, said):
    """What is allowed and seldom meant (`$NAME`, a `*` in a path, …) is warned about, without any secret."""
    [warning] = settings(tmp_path, text).warnings
    assert said in warning
    assert "CANARY" not in warning


@pytest.mark.parametrize("host", ["127.0.0.2", "[::1]"])
def test_upstream_on_another_loopback_address_is_not_the_sidecar(host: str, tmp_path: Path) -> None:
    """[SS-02] The default listener is at port 8080 of 127.0.0.1 alone."""
    route = f"routes:\n  - {{match: {{host: a}}, upstream: 'http://{host}:8080', as: none}}\n"
    assert settings(tmp_path, route).routes[0].upstream.port == 8080


def test_configuration_from_a_pipe_is_read_once(tmp_path: Path) -> None:
    """What a process substitution gives is there for one reading; nobody waits for more of it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    keep = os.open(pipe, os.O_RDWR)
    os.write(keep, b"via: x\nunmatched: forward\n")
    writer = threading.Timer(0.1, os.close, [keep])
    writer.start()
    made = load(pipe, {})
    writer.join()
    assert (made.via, made.files) == ("x", (str(pipe),))
