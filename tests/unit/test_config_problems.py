"""Every way to get the configuration wrong, and what is said about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from sidecar.config import ConfigError, load, render
from sidecar.credentials.vault import generate_key
from tests.support.config import ENVIRON, IDP, ROUTE, places, problems, write

if TYPE_CHECKING:
    from pathlib import Path


class Case(NamedTuple):
    """A text with ▶ at the problem's place, its key, and words of its message and hint."""

    id: str
    text: str
    key: str
    message: str
    hint: str = ""


def route(rest: str) -> str:
    """Return a provider and one route."""
    return IDP + "routes:\n  - " + rest + "\n"


def routed(rest: str) -> str:
    """Return a provider, a good route, and more."""
    return IDP + ROUTE + rest + "\n"


KEY = generate_key()
APP = "match: {host: a.internal}, upstream: https://a.example.com, as: app"
SHAPE = [
    Case("CF-01-unknown-key", routed("▶limit: {}"), "limit", "unknown key", "did you mean 'limits'?"),
    Case("CF-01-unknown-key-nothing-near", routed("▶zzz: {}"), "zzz", "unknown key", "known here: version, listeners"),
    Case("CF-01-unknown-route-key", route(f"{{{APP}, ▶scopes: x}}"), "routes[0].scopes", "unknown key", "'scope'"),
    Case("CF-01-unknown-nested-key", route(f"{{{APP}, timeout: {{▶conect: 2s}}}}"), "routes[0].timeout.conect", "unknown key", "'connect'"),
    Case("CF-01-wrong-type-scalar-for-mapping", routed("limits: ▶5"), "limits", "expected a mapping of keys, found '5'"),
    Case("CF-01-wrong-type-list-for-mapping", routed("admin: ▶[a]"), "admin", "expected a mapping of keys, found a list"),
    Case("CF-01-wrong-type-mapping-for-text", IDP + "routes:\n  - {match: {host: ▶{a: b}}, upstream: https://a.example.com, as: app}", "routes[0].match.host", "expected a host", ""),
    Case("CF-01-wrong-type-mapping-for-list", IDP + "routes: ▶{a: b}", "routes", "expected a list, found a mapping"),
    Case("CF-01-wrong-type-list-for-providers", "providers: ▶[a]\nunmatched: forward", "providers", "expected a mapping, found a list"),
    Case("CF-01-duplicate-key", routed("via: a\n▶via: b"), "via", "a second time, first at 5:1", "keep one"),
    Case("CF-01-duplicate-key-nested", route(f"{{{APP}, ▶as: user}}"), "routes[0].as", "a second time, first at 4:"),
    Case("CF-01-nothing", routed("limits:▶"), "limits", "expected a value, found nothing", "leave the key out"),
    Case("CF-01-key-one-level-too-high", IDP + "routes:\n  - match: {host: a.internal}\n    upstream: https://a.example.com\n    as: app\n    ▶connect: 2s\n", "routes[0].connect", "unknown key", "below 'timeout'"),
    Case("CF-01-key-one-level-too-deep", route(f"{{{APP}, timeout: {{▶audience: x}}}}"), "routes[0].timeout.audience", "unknown key", "beside 'timeout', one level up"),
    Case("CF-01-wrong-type-mapping-for-routes", IDP + "routes:\n  ▶a: {as: app}\n", "routes", "expected a list, found a mapping", "begins with a dash"),
    Case("CF-07-host-with-scheme", IDP + "routes:\n  - {match: {host: ▶'http://a.internal'}, upstream: https://a.example.com, as: app}\n", "routes[0].match.host", "expected a host", "a host has no scheme"),
    Case("CF-08-host-pattern", IDP + "routes:\n  - {match: {host: ▶'(a+)+.internal'}, upstream: https://a.example.com, as: app}\n", "routes[0].match.host", "expected a host"),
    Case("CF-07-host-star-alone", IDP + "routes:\n  - {match: {host: ▶'*'}, upstream: https://a.example.com, as: app}\n", "routes[0].match.host", "expected a host", "leave it out and write a path"),
    Case("CF-02-bare-star", IDP + "routes:\n  - {match: {host: *▶.internal}, upstream: https://a.example.com, as: app}\n", "", "not valid YAML", "put quotes"),
    Case("CF-14-upstream-query", IDP + "routes:\n  - {match: {host: a.internal}, upstream: '▶https://a.example.com/?key=s3cr3t-canary', as: app}\n".replace("'▶", "▶'"), "routes[0].upstream", "found 'https://a.example.com/?***'", "no query"),
    Case("CF-02-reference-open", 'providers:\n  idp: {issuer: https://a, client_id: a, client_secret: "${SECRET"▶}\nunmatched: forward', "", "not valid YAML", "is every ${…} of this line closed"),
    Case("store-path-alone", routed("store: {url: ▶/var/lib/sidecar.db}"), "store.url", "at the start", "sqlite:PATH"),
    Case("CF-01-null", routed("via: ▶null"), "via", "expected a value, found nothing"),
    Case("CF-01-python-object", routed("via: ▶!!python/object/apply:os.system [x]").replace("[x]", "x"), "via", "the tag '!!python/object/apply:os.system' is not allowed", "remove the tag"),
    Case("CF-01-custom-tag", routed("via: ▶!vault x"), "via", "the tag '!vault' is not allowed"),
    Case("CF-01-tab", IDP + "routes:\n▶\t- {}", "", "not valid YAML", "spaces"),
    Case("CF-01-not-closed", IDP + 'via: "abc\n▶', "", "not valid YAML", "it began at line 3"),
    Case("CF-01-indented-too-far", IDP + "routes:\n  - match: {host: a}\n     ▶as: none\n", "", "not valid YAML", "it began at line 4: look there for a missing quote, bracket or space; what belongs together begins in the same column"),
    Case("CF-01-indented-too-little", IDP + "routes:\n  - match: {host: a}\n   ▶as: none\n", "", "not valid YAML", "begins in the same column"),
    Case("CF-01-comma-missing", route("{as: app scope▶: a}"), "", "not valid YAML", "a comma stands before the next key"),
    Case("CF-01-second-document", routed("▶---\nvia: x"), "", "a second document begins here"),
    Case("CF-01-undefined-alias", routed("via: ▶*nobody"), "", "the alias '*nobody' names nothing complete"),
    Case("CF-01-recursive-alias", routed("limits: &a {headers: ▶*a}"), "", "the alias '*a' names nothing complete"),
    Case("CF-01-merge-key", routed("limits: {▶<<: {headers: 1KiB}}"), "limits.'<<'", "merge keys are not supported"),
    Case("CF-01-not-a-mapping", "▶just text", "", "expected a mapping with keys such as providers and routes"),
    Case("CF-01-complex-key", "▶{? {a: b} : c}".replace("▶{? ", "{? ▶"), "", "a key is a text"),
    Case("CF-01-key-of-another-section", routed("limits: {▶body_limit: 5MiB}"), "limits.body_limit", "unknown key", "there is 'routes[].body_limit' or"),
    Case("CF-01-route-key-at-the-top", routed("▶upstream: https://a"), "upstream", "unknown key", "it belongs below 'routes'"),
    Case("CF-01-provider-key-in-route", route(f"{{{APP}, ▶client_id: a}}"), "routes[0].client_id", "unknown key", "there is 'providers.NAME.client_id'"),
    Case("CF-01-scalar-for-mapping-names-its-keys", route(f"{{{APP}, timeout: ▶30s}}"), "routes[0].timeout", "expected a mapping of keys, found '30s'", "its keys: connect, response, idle"),
    Case("CF-01-scalar-for-list", IDP + "routes:\n  - {match: {host: a, methods: ▶GET}, upstream: https://a.example.com, as: app}\n", "routes[0].match.methods", "expected a list, found 'GET'", "in brackets"),
    Case("CF-01-no-break-space", IDP + "routes:\n\u00a0\u00a0- {match: {host: a}▶, upstream: https://a}\n", "", "not valid YAML", "U+00A0"),
    Case("CF-01-no-break-space-in-key", routed("▶\u00a0via: x"), "'\\xa0via'", "unknown key", "no plain one (U+00A0)"),
    Case("CF-01-colon-in-text", routed("via: a▶: b"), "", "not valid YAML", "quotes around a text that holds a colon"),
    Case("CF-13-brackets-in-flow", IDP + "routes:\n  - {match: {host: a}, upstream: https://▶[::1]:8443/x, as: app}\n", "", "not valid YAML", "quotes around a text that holds brackets"),
    Case("typographic-quotes", IDP.replace("'${SECRET}'", "▶“s3cr3t-canary”") + "unmatched: forward", "providers.idp.client_secret", "typographic quotation marks", "straight quotes"),
    Case("typographic-quotes-around-a-reference", routed("admin: {token: ▶“${SECRET}”}"), "admin.token", "typographic quotation marks"),
    Case("CF-01-verify", route(f"{{{APP}, tls: {{▶verify: false}}}}"), "routes[0].tls.verify", "unknown key", "always verified"),
    Case("version", routed("version: ▶2"), "version", "expected 1, found '2'", "version 1 of the format"),
]  # fmt: skip
VALUES = [
    Case("as-misspelt", route("{match: {host: a}, upstream: https://a.example.com, as: ▶usr}"), "routes[0].as", "expected 'app', 'user' or 'none', found 'usr'", "did you mean 'user'?"),
    Case("CF-06-as-list", route("{match: {host: a}, upstream: https://a.example.com, as: ▶[app, user]}"), "routes[0].as", "expected 'app', 'user' or 'none', found a list"),
    Case("as-missing", route("▶{match: {host: a}, upstream: https://a.example.com}"), "routes[0].as", "`as` is always written: app, user or none"),
    Case("match-nothing-written", route("{match: ▶, upstream: https://a.example.com, as: app}"), "routes[0].match", "expected a value, found nothing"),
    Case("CF-03-secret-with-spaces", IDP.replace("'${SECRET}'", "▶' x'") + "unmatched: forward", "providers.idp.client_secret", "expected a secret without spaces around it"),
    Case("count-octal", routed("limits: {header_count: ▶0100}"), "limits.header_count", "expected a whole number above 0", "octal"),
    Case("duration-octal", routed("limits: {head_timeout: ▶010s}"), "limits.head_timeout", "expected a duration", "octal"),
    Case("methods-star", route("{match: {host: a, methods: [▶'*']}, upstream: https://a.example.com, as: app}"), "routes[0].match.methods[0]", "expected a method", "leave methods out"),
    Case("scope-empty", route(f"{{{APP}, scope: ▶''}}"), "routes[0].scope", "expected scopes", "let the provider decide"),
    Case("scope-empty-list", route(f"{{{APP}, scope: ▶[]}}"), "routes[0].scope", "expected at least one entry"),
    Case("issuer-metadata-address", IDP.replace("https://login.example.com", "▶https://login.example.com/.well-known/openid-configuration") + "unmatched: forward", "providers.idp.issuer", "expected a URL", "write the issuer alone"),
    Case("upstream-encoded-dots", route("{match: {host: a}, upstream: ▶https://a.example.com/%2E%2e/b, as: app}"), "routes[0].upstream", "expected a URL", "dot segments"),
    Case("client-auth-short", IDP.replace("client_secret:", "client_auth: ▶basic, client_secret:") + "unmatched: forward", "providers.idp.client_auth", "expected", "did you mean 'client_secret_basic'?"),
    Case("PD-04-apps-empty", routed("callers: {apps: ▶{}}"), "callers.apps", "expected at least one app", "leave the key out"),
    Case("session-twice", routed("callers: {session: [{header: X-Id}, ▶{header: x-id}]}"), "callers.session[1]", "in the list already"),
    Case("app-header-is-default-session-header", routed("callers: {apps: {▶a: {header: x-session-id, key: k}}}"), "callers.apps.a", "holds the session's id already"),
    Case("PD-04-routes-empty", IDP + "routes: ▶[]", "routes", "expected at least one route", "unmatched: forward"),
    Case("PD-04-routes-and-tunnels-empty", "▶tunnels: {allow: []}", "routes", "without routes nothing is forwarded"),
    Case("listener-on-admin-default", routed("listeners: [{bind: ▶127.0.0.1:8081}]"), "listeners[0].bind", "the admin address has this address already, by default at 127.0.0.1:8081", "another port"),
    Case("listener-localhost-on-admin-default", routed("listeners: [{bind: ▶localhost:8081}]"), "listeners[0].bind", "the admin address has this address already"),
    Case("unix-socket-twice-spelt-differently", routed("listeners: [{bind: unix:/run/x.sock}, {bind: ▶unix:///run/x.sock}]"), "listeners[1].bind", "the listener has this address already", "another path"),
    Case("apps-not-a-mapping", routed("callers: {apps: ▶[a]}\nlisteners: [{bind: 0.0.0.0:8080}]"), "callers.apps", "expected a mapping of names to proofs"),
    Case("match-missing", route("▶{upstream: https://a.example.com, as: app}"), "routes[0].match", "is missing"),
    Case("upstream-missing", route("▶{match: {host: a}, as: app}"), "routes[0].upstream", "is missing"),
    Case("duration-word", routed("limits: {head_timeout: ▶soon}"), "limits.head_timeout", "expected a duration such as 500ms, 2s, 5m or 1h, found 'soon'", "ms, s, m, h or d"),
    Case("duration-unit", routed("limits: {head_timeout: ▶10sec}"), "limits.head_timeout", "expected a duration", ""),
    Case("duration-zero", routed("limits: {idle_timeout: ▶0s}"), "limits.idle_timeout", "more than 0, found '0s'"),
    Case("duration-negative", routed("limits: {idle_timeout: ▶-1s}"), "limits.idle_timeout", "expected a duration"),
    Case("duration-infinite", routed("limits: {idle_timeout: ▶.inf}"), "limits.idle_timeout", "expected a duration"),
    Case("duration-absurd", routed("limits: {idle_timeout: ▶99999h}"), "limits.idle_timeout", "not that large"),
    Case("size-word", routed("limits: {headers: ▶big}"), "limits.headers", "expected a size such as 512, 64KiB, 64KB or 1MiB, found 'big'", "KiB, MiB, GiB"),
    Case("size-zero", routed("limits: {target: ▶0}"), "limits.target", "more than 0"),
    Case("size-half-a-byte", routed("limits: {target: ▶1.5}"), "limits.target", "expected a size", "whole number of bytes"),
    Case("count-float", routed("limits: {header_count: ▶1.5}"), "limits.header_count", "expected a whole number above 0"),
    Case("count-zero", routed("limits: {connections: ▶0}"), "limits.connections", "above 0"),
    Case("switch-yes", routed("access_log: ▶yes"), "access_log", "expected true or false, found 'yes'", "YAML 1.2 spells it true"),
    Case("switch-number", routed("destinations: {deny_private: ▶1}"), "destinations.deny_private", "expected true or false"),
    Case("unmatched", routed("unmatched: ▶foward"), "unmatched", "expected 'refuse' or 'forward'", "did you mean 'forward'?"),
    Case("on-outage", routed("store: {on_outage: ▶ignore}"), "store.on_outage", "expected 'fail' or 'local'"),
    Case("via", routed("via: ▶a b"), "via", "expected a pseudonym of one word"),
    Case("bind-no-port", routed("listeners: [{bind: ▶127.0.0.1}]"), "listeners[0].bind", "expected an address such as 127.0.0.1:8080", "port is missing"),
    Case("bind-no-host", routed('listeners: [{bind: ▶":8080"}]'), "listeners[0].bind", "expected an address", "0.0.0.0 for every address"),
    Case("bind-port-alone", routed("listeners: [{bind: ▶8080}]"), "listeners[0].bind", "expected an address", "the host is missing: 127.0.0.1:8080"),
    Case("bind-port", routed("listeners: [{bind: ▶127.0.0.1:80800}]"), "listeners[0].bind", "expected an address", "0 to 65535"),
    Case("CF-13-bind-ipv6-without-brackets", routed("listeners: [{bind: ▶'::1:8080'}]"), "listeners[0].bind", "expected an address", "brackets"),
    Case("bind-relative-socket", routed("listeners: [{bind: ▶unix:proxy.sock}]"), "listeners[0].bind", "expected an address", "absolute path"),
    Case("bind-missing", routed("listeners: [▶{app: a}]"), "listeners[0].bind", "is missing"),
    Case("listeners-empty", routed("listeners: ▶[]"), "listeners", "expected at least one listener"),
    Case("upstream-no-scheme", route("{match: {host: a}, upstream: ▶a.example.com, as: app}"), "routes[0].upstream", "expected a URL", "starts with https:// or http://"),
    Case("upstream-scheme", route("{match: {host: a}, upstream: ▶htps://a.example.com, as: app}"), "routes[0].upstream", "expected a URL", "did you mean 'https'?"),
    Case("CF-13-upstream-unix", route("{match: {host: a}, upstream: ▶unix:/run/api.sock, as: app}"), "routes[0].upstream", "expected a URL", "https:// or http://"),
    Case("upstream-userinfo", route("{match: {host: a}, upstream: ▶https://u:s3cr3t-canary@a.example.com, as: app}"), "routes[0].upstream", "found 'https://***@a.example.com'", "no user name or password"),
    Case("upstream-query", route('{match: {host: a}, upstream: ▶"https://a.example.com/?x=1", as: app}'), "routes[0].upstream", "expected a URL", "no query and no fragment"),
    Case("upstream-fragment", route('{match: {host: a}, upstream: ▶"https://a.example.com/#x", as: app}'), "routes[0].upstream", "expected a URL", "no query and no fragment"),
    Case("upstream-port", route('{match: {host: a}, upstream: ▶"https://a.example.com:0", as: app}'), "routes[0].upstream", "expected a URL", "1 to 65535"),
    Case("upstream-backslash", route("{match: {host: a}, upstream: ▶'https://a.example.com\\b', as: app}"), "routes[0].upstream", "expected a URL"),
    Case("upstream-dots", route("{match: {host: a}, upstream: ▶https://a.example.com/a/../b, as: app}"), "routes[0].upstream", "expected a URL", "dot segments"),
    Case("SS-03-upstream-short-ipv4", route("{match: {host: a}, upstream: ▶https://127.1, as: app}"), "routes[0].upstream", "expected a URL", "four decimal numbers"),
    Case("CF-13-upstream-bad-ipv6", route('{match: {host: a}, upstream: ▶"https://[::g]/", as: app}'), "routes[0].upstream", "expected a URL", "no IPv6 address"),
    Case("CF-13-issuer-not-ascii", "providers:\n  idp: {issuer: ▶https://b\u00fccher.example, client_id: a, client_auth: none}\nunmatched: forward", "providers.idp.issuer", "expected a URL", "write the host in its xn-- form"),
    Case("CF-13-upstream-idna-of-two-domains", route("{match: {host: a.internal}, upstream: ▶https://stra\u00dfe.example, as: app}"), "routes[0].upstream", "expected a URL", "for two domains; write its xn-- form"),
    Case("CF-13-host-idna-of-two-domains", route("{match: {host: ▶a\u200db.example}, upstream: https://a.example.com, as: app}"), "routes[0].match.host", "expected a host", "for two domains"),
    Case("CF-13-host-idna", route(f"{{match: {{host: ▶{'ü' * 70}.de}}, upstream: https://a.example.com, as: app}}"), "routes[0].match.host", "expected a host", "IDNA"),
    Case("host-wildcard-inside", route('{match: {host: ▶"a.*.com"}, upstream: https://a.example.com, as: app}'), "routes[0].match.host", "expected a host", "*.example.com"),
    Case("host-url", route("{match: {host: ▶https://a}, upstream: https://a.example.com, as: app}"), "routes[0].match.host", "expected a host"),
    Case("path-relative", route("{match: {path: ▶api}, upstream: https://a.example.com, as: app}"), "routes[0].match.path", "expected an absolute path", "starts with /"),
    Case("path-query", route('{match: {path: ▶"/a?b"}, upstream: https://a.example.com, as: app}'), "routes[0].match.path", "expected an absolute path", "not queries"),
    Case("path-template", route("{match: {path: ▶'/users/{id}'}, upstream: https://a.example.com, as: app}"), "routes[0].match.path", "expected an absolute path", "before the {"),
    Case("path-escaped", route("{match: {path: ▶/a%2fb}, upstream: https://a.example.com, as: app}"), "routes[0].match.path", "expected an absolute path", "percent"),
    Case("SS-09-path-dots", route("{match: {path: ▶/a/../b}, upstream: https://a.example.com, as: app}"), "routes[0].match.path", "expected an absolute path", "dot segments"),
    Case("methods-lower-case", route("{match: {host: a, methods: [GET, ▶post]}, upstream: https://a.example.com, as: app}"), "routes[0].match.methods[1]", "expected a method", "did you mean 'POST'?"),
    Case("PD-04-methods-empty", route("{match: {host: a, methods: ▶[]}, upstream: https://a.example.com, as: app}"), "routes[0].match.methods", "at least one entry"),
    Case("PD-04-allow-empty", route(f"{{{APP}, allow: ▶[]}}"), "routes[0].allow", "at least one entry"),
    Case("methods-connect", route("{match: {host: a, methods: [▶CONNECT]}, upstream: https://a.example.com, as: app}"), "routes[0].match.methods[0]", "expected a method", "tunnels.allow"),
    Case("PD-03-scope-commas", route(f'{{{APP}, scope: ▶"a, b"}}'), "routes[0].scope", "expected scopes", "separated by spaces"),
    Case("resource-relative", route(f"{{{APP}, resource: [https://a, ▶b]}}"), "routes[0].resource[1]", "expected a URI", "RFC 8707"),
    Case("header-spaces", route(f"{{{APP}, header: ▶X Token}}"), "routes[0].header", "expected a header name", "one word"),
    Case("header-hop-by-hop", route(f"{{{APP}, header: ▶Transfer-Encoding}}"), "routes[0].header", "expected a header name", "belongs to the connection"),
    Case("header-proxy", route(f"{{{APP}, header: ▶Proxy-Authorization}}"), "routes[0].header", "expected a header name", "belongs to the connection"),
    Case("header-in-the-log", route(f"{{{APP}, header: ▶X-Request-Id}}"), "routes[0].header", "expected a header name", "to the log"),
    Case("scheme-dpop-not-yet", route(f"{{{APP}, scheme: ▶DPoP}}"), "routes[0].scheme", "not supported by this version"),
    Case("grant-not-yet", route(f"{{{APP}, grant: ▶token_exchange}}"), "routes[0].grant", "not supported by this version"),
    Case("replay-unsafe", route(f"{{{APP}, replay: {{unsafe: ▶sometimes}}}}"), "routes[0].replay.unsafe", "expected 'invalid_token', 'never' or 'always'"),
    Case("tunnel-without-port", routed("tunnels: {allow: [▶a.example.com]}"), "tunnels.allow[0]", "expected a host and port", "port is missing"),
    Case("tunnel-any", routed('tunnels: {allow: [▶"*:443"]}'), "tunnels.allow[0]", "expected a host and port", "wildcard"),
    Case("params-own", route(f"{{{APP}, params: {{▶scope: x}}}}"), "routes[0].params.scope", "the sidecar sets this parameter itself", "use the key `scope`"),
    Case("provider-name", IDP.replace("idp:", "▶'my idp':") + "unmatched: forward", "providers.'my idp'", "expected a name"),
    Case("session-kind", routed("callers: {session: [{▶cooky: x}]}"), "callers.session[0].cooky", "expected 'cookie' or 'header' as a key, found 'cooky'", "did you mean 'cookie'?"),
    Case("session-two-kinds", routed("callers: {session: [▶{cookie: x, header: y}]}"), "callers.session[0]", "'cookie' and 'header' exclude each other"),
    Case("session-bearer-not-yet", routed("callers: {session: [{▶bearer: {issuer: https://a, audience: b}}]}"), "callers.session[0].bearer", "not supported by this version"),
    Case("session-not-a-list", routed("callers: {session: ▶{cookie: x}}"), "callers.session", "expected a list of places", "[{cookie: sidecar_session}]"),
    Case("session-cookie-name", routed("callers: {session: [{cookie: ▶a;b}]}"), "callers.session[0].cookie", "expected a cookie name"),
    Case("app-peer-uid-not-yet", routed("callers: {apps: {batch: {▶peer_uid: 1001}}}"), "callers.apps.batch.peer_uid", "not supported by this version"),
    Case("app-jwt-not-yet", routed("callers: {apps: {jobs: {▶jwt: {issuer: https://a}}}}"), "callers.apps.jobs.jwt", "not supported by this version"),
    Case("app-key-missing", routed("callers: {apps: {▶reports: {header: X-Api-Key}}}"), "callers.apps.reports.key", "is missing beside 'header'"),
    Case("CF-03-app-key-empty", routed('callers: {apps: {billing: {basic: ▶""}}}'), "callers.apps.billing.basic", "expected a key of visible ASCII characters"),
]  # fmt: skip
MEANING = [
    Case("routes-missing", "▶" + IDP, "routes", "is missing: without routes nothing is forwarded"),
    Case("unknown-provider", route(f"{{{APP}, provider: ▶ipd}}"), "routes[0].provider", "unknown provider, found 'ipd'", "did you mean 'idp'?"),
    Case("provider-not-named", IDP + "  two: {issuer: https://b.example.com, client_id: a, client_auth: none}\nroutes:\n  - ▶{" + APP + "}", "routes[0].provider", "more than one provider (idp, two)"),
    Case("no-provider", "routes:\n  - ▶{" + APP + "}", "routes[0].provider", "there is no provider", "add one under `providers`"),
    Case("unknown-app", IDP + "callers: {apps: {billing: {basic: a}}}\nroutes:\n  - {" + APP + ", allow: [▶biling]}", "routes[0].allow[0]", "unknown app, found 'biling'", "did you mean 'billing'?"),
    Case("unknown-listener-app", routed("callers: {apps: {billing: {basic: a}}}\nlisteners: [{bind: '127.0.0.1:8080', app: ▶biling}]"), "listeners[0].app", "unknown app", "did you mean 'billing'?"),
    Case("apps-same-key", routed("callers: {apps: {a: {header: X-Key, key: k}, ▶b: {header: x-key, key: k}}}"), "callers.apps.b", "has the same proof as 'a'", "a key of its own"),
    Case("app-header-is-session-header", routed("callers: {apps: {▶a: {header: x-session-id, key: k}}, session: [{header: X-Session-Id}]}"), "callers.apps.a", "holds the session's id already"),
    Case("as-user-without-session", route("{match: {host: a}, upstream: https://a.example.com, as: ▶user}") + "callers: {session: []}", "routes[0].as", "`as: user` needs a session source", "callers.session is empty"),
    Case("grant-for-users", route(f"{{{APP}, grant: ▶session}}"), "routes[0].grant", "expected 'client_credentials' with `as: app`, found 'session'"),
    Case("grant-for-apps", route("{match: {host: a}, upstream: https://a.example.com, as: user, grant: ▶client_credentials}"), "routes[0].grant", "expected 'session' with `as: user`"),
    Case("none-with-scope", route("{match: {host: a}, upstream: https://a.example.com, as: none, ▶scope: x}"), "routes[0].scope", "no meaning with `as: none`"),
    Case("none-with-provider", route("{match: {host: a}, upstream: https://a.example.com, as: none, ▶provider: idp}"), "routes[0].provider", "no meaning with `as: none`"),
    Case("none-with-audience", route("{match: {host: a}, upstream: https://a.example.com, as: none, ▶audience: x}"), "routes[0].audience", "no meaning with `as: none`"),
    Case("match-nothing", route("{match: ▶{methods: [GET]}, upstream: https://a.example.com, as: app}"), "routes[0].match", "expected a host, a path or both"),
    Case("strip-without-path", route(f"{{{APP}, strip_prefix: ▶true}}"), "routes[0].strip_prefix", "needs match.path"),
    Case("duplicate-route-name", route(f"{{{APP}, name: x}}\n  - {{match: {{host: b}}, upstream: https://b.example.com, as: app, name: ▶x}}"), "routes[1].name", "routes[0] has this name already"),
    Case("CF-02-same-match", route(f"{{{APP}}}\n  - {{match: ▶{{host: a.internal}}, upstream: https://b.example.com, as: app}}"), "routes[1].match", "takes the same requests as routes[0]"),
    Case("CF-02-overlapping-methods", route("{match: {path: /a, methods: [GET, PUT]}, upstream: https://a.example.com, as: app}\n  - {match: ▶{path: /a, methods: [PUT]}, upstream: https://a.example.com, as: user}"), "routes[1].match", "takes the same requests as routes[0]"),
    Case("CF-09-same-host-and-path-spelt-differently", route("{match: {host: a.internal, path: /x}, upstream: https://a.example.com, as: app}\n  - {match: ▶{host: A.Internal., path: /x/}, upstream: https://a.example.com, as: app}"), "routes[1].match", "takes the same requests as routes[0]"),
    Case("LK-14-insecure-upstream", route("{match: {host: a}, upstream: ▶http://a.example.com, as: app}"), "routes[0].upstream", "a token would leave this machine unencrypted", "insecure: true"),
    Case("tls-with-http", route("{match: {host: a}, upstream: http://localhost:1, as: app, ▶tls: {server_name: a}}"), "routes[0].tls", "no meaning with an http:// upstream"),
    Case("SS-02-upstream-is-listener", route("{match: {host: a}, upstream: ▶http://localhost:8080, as: none}"), "routes[0].upstream", "the sidecar's own listener"),
    Case("SS-02-upstream-is-admin", route("{match: {host: a}, upstream: ▶http://127.0.0.1:8081/v1, as: none}"), "routes[0].upstream", "the sidecar's own admin address"),
    Case("one-address-twice", routed("listeners: [{bind: 127.0.0.1:9}, {bind: ▶127.0.0.1:9}]"), "listeners[1].bind", "the listener has this address already"),
    Case("admin-on-a-listener", routed("admin: {bind: ▶127.0.0.1:8080}"), "admin.bind", "the listener has this address already, by default at 127.0.0.1:8080"),
    Case("admin-open", routed("admin: {bind: ▶0.0.0.0:8081}"), "admin.bind", "needs a token", "bind to 127.0.0.1"),
    Case("CF-07-listener-open", routed("listeners: [{bind: ▶0.0.0.0:8080}]"), "listeners[0].bind", "anyone could use routes[0] (`as: app`)", "callers.apps"),
    Case("CF-07-listener-open-ipv6", routed('listeners: [{bind: ▶"[::]:8080"}]'), "listeners[0].bind", "anyone could use routes[0]"),
    Case("socket-folder", routed("listeners: [{bind: ▶unix:/nowhere/at/all/x.sock}]"), "listeners[0].bind", "folder '/nowhere/at/all' does not exist"),
    Case("provider-nowhere", "providers:\n  ▶idp: {client_id: a, client_auth: none}\nunmatched: forward", "providers.idp", "expected `issuer` or `token_endpoint`"),
    Case("client-id-missing", "providers:\n  ▶idp: {issuer: https://a, client_auth: none}\nunmatched: forward", "providers.idp.client_id", "is missing"),
    Case("client-secret-missing", "providers:\n  ▶idp: {issuer: https://a, client_id: a}\nunmatched: forward", "providers.idp.client_secret", "client_secret_basic needs it", "client_auth: none"),
    Case("client-secret-too-many", "providers:\n  idp: {issuer: https://a, client_id: a, client_auth: none, ▶client_secret: s3cr3t-canary}\nunmatched: forward", "providers.idp.client_secret", "no meaning with `client_auth: none`"),
    Case("client-auth-not-yet", "providers:\n  idp: {issuer: https://a, client_id: a, client_auth: ▶private_key_jwt}\nunmatched: forward", "providers.idp.client_auth", "not supported by this version"),
    Case("CF-04-issuer-http", "providers:\n  idp: {issuer: ▶http://login.example.com, client_id: a, client_auth: none}\nunmatched: forward", "providers.idp.issuer", "secrets would leave this machine unencrypted", "insecure: true"),
    Case("CF-04-token-endpoint-http", "providers:\n  idp: {token_endpoint: ▶http://login.example.com/t, client_id: a, client_auth: none}\nunmatched: forward", "providers.idp.token_endpoint", "unencrypted"),
    Case("issuer-query", "providers:\n  idp: {issuer: ▶'https://a/?x', client_id: a, client_auth: none}\nunmatched: forward", "providers.idp.issuer", "expected a URL", "no query"),
    Case("CF-05-verify-false", "providers:\n  idp: {issuer: https://a, client_id: a, client_auth: none, tls: {▶verify: false}}\nunmatched: forward", "providers.idp.tls.verify", "unknown key"),
    Case("tls-file-missing", route(f"{{{APP}, tls: {{ca: ▶no-such.pem}}}}"), "routes[0].tls.ca", "there is no such file, found 'no-such.pem'"),
    Case("tls-ca-without-certificate", route(f"{{{APP}, tls: {{ca: ▶sidecar.yaml}}}}"), "routes[0].tls.ca", "the file holds no certificate that can be read (PEM), found 'sidecar.yaml'"),
    Case("tls-cert-without-certificate", route(f"{{{APP}, tls: {{cert: ▶sidecar.yaml, key: sidecar.yaml}}}}"), "routes[0].tls.cert", "this certificate and its key cannot be used", "needs no password"),
    Case("tls-key-alone", route(f"{{{APP}, tls: {{▶key: sidecar.yaml}}}}"), "routes[0].tls.key", "a key needs its certificate"),
    Case("store-redis-key-not-set", routed("store: {url: redis://redis, keys: [▶'${NOT_SET}']}"), "store.keys[0]", "NOT_SET is not set"),
    Case("store-redis-key-malformed", routed("store: {url: redis://redis, keys: [▶'']}"), "store.keys[0]", "a secret that is not empty"),
    Case("store-redis-without-keys", routed("store: {url: ▶'redis://:s3cr3t-canary@redis'}"), "store.url", "needs store.keys", "sidecar keygen"),
    Case("store-redis-url", routed(f"store: {{keys: [{KEY}], url: ▶'redis://s3cr3t-canary@redis'}}"), "store.url", "write redis://"),
    Case("store-redis-file-missing", routed(f"store: {{keys: [{KEY}], url: ▶'rediss://redis?ca=no-such.pem'}}"), "store.url", "there is no file where ca says"),
    Case("CF-14-store-key", routed("store: {keys: [▶s3cr3t-canary]}"), "store.keys[0]", "a store key starts with", "sidecar keygen"),
    Case("CF-14-store-key-length", routed("store: {keys: [▶sidecar-k1.abc]}"), "store.keys[0]", "this one has 3"),
    Case("CF-14-store-key-twice", routed(f"store: {{keys: [{KEY}, ▶{KEY}]}}"), "store.keys[1]", "in the list already"),
    Case("store-unknown", routed("store: {url: ▶sqlit:x}"), "store.url", "expected 'memory:', 'sqlite:', 'redis:', 'rediss:', 'redis+sentinel:' or 'redis+cluster:' at the start", "did you mean 'sqlite'?"),
    Case("store-memory-with-path", routed("store: {url: ▶memory:x}"), "store.url", "memory:"),
]  # fmt: skip
REFERENCES = [
    Case("CF-03-variable-missing", routed("via: ▶${VIA}"), "via", "the environment variable VIA is not set", "${VIA:-default}"),
    Case("CF-03-variable-near", routed("via: ▶${NAM}"), "via", "NAM is not set", "did you mean 'NAME'?"),
    Case("CF-03-variable-required", routed("via: ▶'${VIA:?ask the platform team}'"), "via", "VIA is needed: ask the platform team"),
    Case("CF-03-variable-required-empty", routed("via: ▶'${EMPTY:?}'"), "via", "the environment variable EMPTY is empty"),
    Case("CF-03-secret-empty", IDP.replace("'${SECRET}'", "▶'${EMPTY}'") + "unmatched: forward", "providers.idp.client_secret", "expected a secret that is not empty"),
    Case("CF-03-file-missing", routed("via: ▶${file:no/such}"), "via", "cannot be read: No such file or directory"),
    Case("reference-unclosed", routed('via: ▶"${VIA"'), "via", "a reference is not closed", "$$"),
    Case("reference-nonsense", routed("via: ▶${1x}"), "via", "cannot be understood", "${NAME:-default}"),
    Case("reference-unknown-kind", routed("via: ▶${vault:x}"), "via", "cannot be understood", "${file:PATH}"),
    Case("reference-nested", routed('via: ▶"${A:-${B}}"'), "via", "not closed, or holds another one"),
]  # fmt: skip
CASES = [*SHAPE, *VALUES, *MEANING, *REFERENCES]


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_broken_configuration_is_refused_with_its_place(case: Case, tmp_path: Path) -> None:
    """One thing is wrong: one problem, at its place, with its key, what was expected, and a hint."""
    text, [(line, column)] = places(case.text)
    found = problems(tmp_path, text)
    assert len(found) == 1, render(ConfigError(found))
    [problem] = found
    assert (problem.line, problem.column, problem.key) == (line, column, case.key), problem
    assert case.message in problem.message
    assert case.hint in problem.hint
    assert "canary" not in render(ConfigError(found))


NINE = f"""\
{IDP.replace("'${SECRET}'", "▶${NOT_SET}")}\
  two: {{issuer: https://b.example.com, client_id: a, client_secrt: s3cr3t-canary}}
routes:
  - {{match: {{host: a.internal}}, upstream: ▶a.example.com, as: app, provider: ▶ipd}}
  - match: {{path: ▶api}}
    upstream: https://b.example.com
    as: ▶usr
    provider: idp
    timeout: {{total: ▶5x}}
limits: {{headers: ▶0}}
access_log: ▶maybe
admin: {{bind: ▶0.0.0.0:8081}}
""".replace("client_secrt", "client_auth: none, ▶client_secrt").replace("{total: ▶5x}", "{idle: ▶5x}")


def test_ten_problems_in_one_file_are_reported_in_one_run(tmp_path: Path) -> None:
    """References, shape and meaning are judged in one run: no problem hides another, in the order of the file."""
    text, expected = places(NINE)
    found = problems(tmp_path, text)
    assert [(problem.line, problem.column) for problem in found] == expected
    assert [problem.key for problem in found] == [
        "providers.idp.client_secret",
        "providers.two.client_secrt",
        "routes[0].upstream",
        "routes[0].provider",
        "routes[1].match.path",
        "routes[1].as",
        "routes[1].timeout.idle",
        "limits.headers",
        "access_log",
        "admin.bind",
    ]


def test_problem_shown_has_place_line_caret_and_hint(tmp_path: Path) -> None:
    """What a terminal shows, letter by letter."""
    path = write(tmp_path, "providers: {}\nroutes:\n  - match: {host: a}\n    as: usr\n    upstream: https://a.b\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value) == (
        f"{path}:4:9: routes[0].as: expected 'app', 'user' or 'none', found 'usr'\n"
        "    4 |     as: usr\n"
        "      |         ^^^\n"
        "      hint: did you mean 'user'?\n"
        "1 problem"
    )
    coloured = render(caught.value, colour=True)
    assert "\033[31m^^^\033[0m" in coloured
    assert coloured.replace("\033[31m", "").replace("\033[1m", "").replace("\033[36m", "").replace(
        "\033[0m", ""
    ) == str(caught.value)


LONG = "x" * 300


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"via: a\n# y\nroutes: [{{name: {LONG}, zzz: 1}}]\n", "zzz"),
        ('via: "\\e[31m\\u202e\\0"\nunmatched: forward\n', "via"),
        ("v\u200bia: x\nunmatched: forward\n", "ia"),
    ],
)
def test_problem_shown_is_short_and_harmless(text: str, shown: str, tmp_path: Path) -> None:
    """Long lines are cut around the caret, and control characters reach no terminal."""
    found = render(ConfigError(problems(tmp_path, text)))
    assert shown in found
    assert "\033" not in found
    assert "\u202e" not in found
    assert max(map(len, found.splitlines())) < 400


@pytest.mark.parametrize("count", [0, 1])
def test_caret_stands_under_its_column_behind_a_masked_secret(count: int, tmp_path: Path) -> None:
    """A mask is not as long as what it hides; the caret moves along."""
    secret = "s3cr3t-canary-much-longer-than-the-mask" * count
    text = f"providers: {{idp: {{client_secret: x{secret}, client_id: a, issuer: https://a, zzz: 1}}}}\nunmatched: forward\n"
    [problem] = problems(tmp_path, text)
    assert problem.source[problem.caret :].startswith("zzz")
    assert "canary" not in problem.source


LEAKS = [
    "providers: {idp: {client_secret: s3cr3t-canary, issuer: 5}}",
    "providers: {idp: {client_secrt: s3cr3t-canary}}",
    "providers: {idp: {client_secret: [s3cr3t-canary]}}",
    "providers: {idp: {client_secret: {a: s3cr3t-canary}}}",
    "providers: {idp: {client_secret: ' s3cr3t-canary'}}",
    "providers: {idp: {client_secret: '${NOT_SET:-}s3cr3t-canary', zzz: 1}}",
    "providers: {idp: {client_secret: '${NOT_SET:-s3cr3t-canary}', zzz: 1}}",
    "providers: {idp: {client_secret: !!x s3cr3t-canary}}",
    "providers: {idp: {client_secret: s3cr3t-canary, client_secret: s3cr3t-canary}}",
    "providers:\n  idp:\n    client_secret: |\n      s3cr3t-canary\n      more\n",
    "providers: [{client_secret: s3cr3t-canary}]",
    "providers: {idp: {params: {password: s3cr3t-canary, grant_type: s3cr3t-canary}}}",
    "x: &a s3cr3t-canary\nadmin: {token: *a, zzz: 1}",
    "admin: {token: s3cr3t canary}",
    "admin: {token: s3cr3t-canary, bind: 0.0.0.0}",
    "store: {url: 'redis://:s3cr3t-canary@host'}",
    "store: {url: 'sqlite://s3cr3t-canary'}",
    "store: {keys: s3cr3t-canary}",
    "store: s3cr3t-canary",
    "admin: s3cr3t-canary",
    "callers: s3cr3t-canary",
    "callers: {apps: s3cr3t-canary}",
    "callers: {apps: {a: s3cr3t-canary}}",
    "callers: {apps: {a: [s3cr3t-canary]}}",
    "providers: {idp: s3cr3t-canary}",
    "providers: {idp: {params: s3cr3t-canary}}",
    "routes: [{params: [s3cr3t-canary]}]",
    "store: {keys: [s3cr3t-canary, {}]}",
    "callers: {apps: {a: {basic: s3cr3t-canary, zzz: 1}}}",
    "callers: {apps: {a: {header: A:, key: s3cr3t-canary}}}",
    "callers: {apps: [{basic: s3cr3t-canary}]}",
    "callers: {apps: {a: {password: s3cr3t-canary}}}",
    "routes: [{upstream: 'https://u:s3cr3t-canary@host/'}]",
    "routes: [{client_secret: s3cr3t-canary}]",
    "admin: {token: s3cr3t-canary",
    "admin:\n  token: s3cr3t-canary\n bad",
    'admin:\n  token: "s3cr3t-canary\n',
    "admin:\n  token:\n    s3cr3t-canary: x: y\n",
    "client_secret: s3cr3t-canary: x",
    "admin: {token: 's3cr3t-canary\t}",
    "via: ${SECRET}!\nadmin: {bind: '${SECRET}', zzz: '${SECRET}'}\nunmatched: ${SECRET}\nlimits: {headers: '${SECRET}'}",
    "routes: [{name: '${SECRET}', provider: '${SECRET}', allow: ['${SECRET}'], scope: '${SECRET},', as: '${SECRET}'}]",
]


@pytest.mark.parametrize("text", LEAKS)
def test_secret_stands_in_no_problem(text: str, tmp_path: Path) -> None:
    """Neither an inline secret nor the value of a variable is shown: not in message, source line or hint."""
    found = problems(tmp_path, text + "\n")
    assert "canary" not in render(ConfigError(found))
    assert "canary" not in repr(found)


def test_every_id_is_told_apart() -> None:
    """The table is large enough, and no case covers another."""
    assert len(CASES) >= 60
    assert len({case.id for case in CASES}) == len(CASES)
    assert ENVIRON["SECRET"] == "s3cr3t-canary"
