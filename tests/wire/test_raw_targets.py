"""Raw request targets, hosts and header lines: where a request goes, and what goes with it (RFC 9112 section 3)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.corridor import SESSION_COOKIE, Corridor, LoopKind
from tests.support.judge import (
    SMUGGLED,
    VARIANTS,
    Case,
    Expected,
    Variant,
    fill,
    only_request,
    proper,
    requests,
    run,
    start,
    table,
)

if TYPE_CHECKING:
    from tests.support.raw import Answer

LINE = b"\r\nHost: app.internal\r\n\r\n"


def _get(target: bytes, host: bytes = b"app.internal") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host)


def _sees(path: bytes) -> tuple[Expected, ...]:
    return (Expected(b"GET", path),)


# Variant form does not matter to these: the target is the case.
ONCE = tuple(variant for variant in VARIANTS if variant.form == "absolute")

PATHS = [
    Case(f"HD-23-path-{name}", b"GET @" + path + b"@ HTTP/1.1\r\nHost: @host@\r\n\r\n", _sees(path))
    for name, path in {
        "root": b"/", "two-slashes": b"//", "double-inside": b"/a//b", "trailing": b"/a/", "semicolon": b"/a;v=1",
        "empty-query": b"/a?", "plus": b"/a+b?c+d", "percent": b"/%41%7e", "lower-percent": b"/%c3%a9",
        "question-in-query": b"/a?b?c", "slash-in-query": b"/a?b=/../c", "encoded-slash-in-query": b"/a?b=%2f",
        "bad-percent": b"/%zz", "half-percent": b"/a%", "tilde": b"/~a", "dots-in-name": b"/a..b/...", "colon": b"/a:b",
        "at": b"/a@b", "encoded-crlf": b"/a%0d%0aX:%20y", "encoded-space": b"/a%20b", "quote": b'/a"b',
        "brackets": b"/a[b]{c}", "pipe": b"/a|b", "caret": b"/a^b`c", "less": b"/a<b>", "url-in-path": b"/http://evil/",
        "url-in-query": b"/?u=http://evil/", "star": b"/*", "hidden": b"/.well-known/x", "comma": b"/a,b", "bang": b"/!",
        "backslash-in-query": b"/a?b\\c", "encoded-unreserved": b"/%61pi", "encoded-nul-in-query": b"/a?%00",
    }.items()
    if b"@" not in path
]  # fmt: skip
UNCLEAR_PATHS = [
    Case(f"SS-09-path-{name}", b"GET @" + path + b"@ HTTP/1.1\r\nHost: @host@\r\n\r\n" + SMUGGLED)
    for name, path in {
        "dot-dot": b"/a/../b", "dot": b"/a/./b", "encoded-dot-dot": b"/a/%2e%2e/b", "half-encoded": b"/a/.%2e/b",
        "upper-encoded": b"/a/%2E%2E/b", "ends-in-dot-dot": b"/a/..", "ends-in-dot": b"/a/.", "only-dot-dot": b"/..",
        "encoded-slash": b"/a%2fb", "encoded-slash-upper": b"/a%2Fb", "encoded-backslash": b"/a%5cb",
        "backslash": b"/a\\..\\b", "dot-dot-semicolon": b"/a/..;/b", "dot-semicolon": b"/a/.;x/b",
        "encoded-nul": b"/a%00b", "encoded-slash-dot-dot": b"/a/..%2fb", "dot-dot-first": b"/../../etc/passwd",
        "fragment": b"/a#b", "fragment-in-query": b"/a?b#c", "token-in-query": b"/a?access_token=x",
        "token-in-query-later": b"/a?b=c&access_token=x",
    }.items()
]  # fmt: skip
UNCLEAR_PATHS = [replace(case, stream=case.stream.removesuffix(SMUGGLED), stays=True) for case in UNCLEAR_PATHS]

BAD_TARGETS = [
    Case(f"SS-04-{name}", _get(target) + SMUGGLED, status=(400, 403))
    for name, target in {
        "userinfo": b"http://user@app.internal/x",
        "userinfo-password": b"http://user:pw@app.internal/x",
        "userinfo-decoy": b"http://app.internal@evil.test/x",
        "userinfo-decoy-port": b"http://app.internal:80@evil.test/x",
        "backslash-authority": b"http://app.internal\\@evil.test/x",
        "backslash-slashes": b"http:\\\\app.internal\\x",
        "encoded-slash-at": b"http://app.internal%2f@evil.test/x",
        "fragment-at": b"http://app.internal#@evil.test/x",
        "fragment": b"http://app.internal/x#y",
        "two-ports": b"http://app.internal:80:80/x",
        "port-word": b"http://app.internal:http/x",
        "port-negative": b"http://app.internal:-80/x",
        "port-plus": b"http://app.internal:+80/x",
        "port-huge": b"http://app.internal:65616/x",
        "port-six-digits": b"http://app.internal:000080/x",
        "port-zero": b"http://app.internal:0/x",
        "port-space": b"http://app.internal: 80/x",
        "encoded-host": b"http://app%2einternal/x",
        "encoded-host-letter": b"http://%61pp.internal/x",
        "tab-in-host": b"http://app\t.internal/x",
        "nul-in-host": b"http://app\x00.internal/x",
        "utf8-host": b"http://app\xe3\x80\x82internal/x",
        "fullwidth-host": b"http://\xef\xbd\x81pp.internal/x",
        "empty-host": b"http:///x",
        "empty-host-port": b"http://:80/x",
        "one-slash": b"http:/app.internal/x",
        "no-slashes": b"http:app.internal/x",
        "three-slashes": b"http:///app.internal/x",
        "comma-host": b"http://app.internal,evil.test/x",
        "semicolon-host": b"http://app.internal;evil.test/x",
        "space-host": b"http://app.internal evil.test/x",
        "ipv6-unclosed": b"http://[::1/x",
        "ipv6-zone": b"http://[fe80::1%25eth0]/x",
        "ipv6-junk": b"http://[::1]evil/x",
        "quote-host": b"http://app.internal'/x",
        "bracket-name": b"http://[app.internal]/x",
        "authority-form": b"app.internal:80",
        "authority-only": b"app.internal",
        "network-path-as-scheme": b"://app.internal/x",
        "scheme-with-space": b"ht tp://app.internal/x",
    }.items()
]
OTHER_SCHEMES = [
    Case(f"SS-07-{scheme.decode()}", _get(scheme + b"://app.internal/x") + SMUGGLED, status=(400, 403, 501))
    for scheme in (b"ftp", b"file", b"gopher", b"ws", b"wss", b"httpx", b"javascript", b"data", b"htt",
                   b"http+unix", b"x-http")
] + [
    Case(f"SS-07-{scheme.decode()}-to-a-clear-upstream", _get(scheme + b"://app.internal/x"), status=(403,), stays=True)
    for scheme in (b"https", b"HTTPS")
]  # fmt: skip
ELSEWHERE = [
    Case(f"SS-03-{name}", _get(b"http://%b/x" % host, host) + SMUGGLED, status=(403,), stays=True)
    for name, host in {
        "short": b"127.1", "decimal": b"2130706433", "hex": b"0x7f000001", "octal": b"0177.0.0.1",
        "mapped": b"[::ffff:127.0.0.1]", "zero": b"0.0.0.0", "zero-short": b"0", "loopback": b"127.0.0.1",
        "localhost": b"localhost", "ipv6-loopback": b"[::1]", "metadata": b"169.254.169.254",
        "punycode": b"xn--pp-eka.internal", "suffix": b"app.internal.evil.test", "prefix": b"evil-app.internal",
        "subdomain": b"x.app.internal", "parent": b"internal", "hyphen": b"app-internal", "underscore": b"app_internal",
        "two-dots": b"app.internal..", "leading-dot": b".app.internal", "inner-dots": b"app..internal",
        "wildcard-itself": b"*.wild.internal", "wildcard-parent": b"wild.internal", "wildcard-prefix": b"xwild.internal",
    }.items()
]  # fmt: skip
ELSEWHERE = [
    replace(case, stream=case.stream.removesuffix(SMUGGLED), status=(400, 403) if b"*" in case.stream else (403,),
            stays=b"*" not in case.stream)
    for case in ELSEWHERE
]  # fmt: skip
SAME_ROUTE = [
    Case(f"SS-11-{name}", _get(target, b"other.internal"), _sees(b"/x"))
    for name, target in {
        "upper-case": b"http://APP.Internal/x", "upper-scheme": b"HTTP://app.internal/x",
        "default-port": b"http://app.internal:80/x", "leading-zero-port": b"http://app.internal:00080/x",
        "trailing-dot": b"http://app.internal./x", "trailing-dot-port": b"http://app.internal.:80/x",
        "other-port": b"http://app.internal:8080/x", "wildcard": b"http://a.wild.internal/x",
        "wildcard-deep": b"http://a.b.wild.internal/x", "empty-port": b"http://app.internal:/x",
    }.items()
]  # fmt: skip
SAME_ROUTE = [replace(case, or_refused=case.id.endswith("empty-port")) for case in SAME_ROUTE]
SEGMENTS = [
    Case("SS-09-segment-exact", _get(b"/api", b"paths.internal"), _sees(b"/api")),
    Case("SS-09-segment-below", _get(b"/api/x", b"paths.internal"), _sees(b"/api/x")),
    Case("SS-09-segment-query", _get(b"/api?x", b"paths.internal"), _sees(b"/api?x")),
    Case("SS-09-segment-encoded", _get(b"/%61pi/x", b"paths.internal"), _sees(b"/%61pi/x")),
    Case("SS-09-segment-longer", _get(b"/apix", b"paths.internal"), status=(403,), stays=True),
    Case("SS-09-segment-case", _get(b"/API/x", b"paths.internal"), status=(403,), stays=True),
    Case("SS-09-segment-up", _get(b"/api/../admin", b"paths.internal"), status=(400, 403), stays=True),
    Case("SS-09-segment-up-encoded", _get(b"/api/%2e%2e/admin", b"paths.internal"), status=(400, 403), stays=True),
    Case(
        "SS-09-segment-up-encoded-slash", _get(b"/api%2f..%2fadmin", b"paths.internal"), status=(400, 403), stays=True
    ),
    Case("SS-09-segment-double-slash", _get(b"//api/x", b"paths.internal"), status=(400, 403), stays=True),
    Case("SS-09-base-url", _get(b"/base/x?y", b"127.0.0.1:8080"), _sees(b"/v1/x?y")),
    Case("SS-09-base-url-itself", _get(b"/base", b"127.0.0.1:8080"), _sees(b"/v1/")),
    Case("SS-09-base-url-slash", _get(b"/base/", b"127.0.0.1:8080"), _sees(b"/v1/")),
    Case("SS-09-base-url-query-with-slash", _get(b"/base?a=/b/c", b"127.0.0.1:8080"), _sees(b"/v1/?a=/b/c")),
    Case("SS-09-base-url-double-slash", _get(b"/base//x", b"127.0.0.1:8080"), _sees(b"/v1//x")),
    Case("SS-09-base-url-encoded", _get(b"/b%61se/x", b"127.0.0.1:8080"), _sees(b"/v1/x")),
    Case("SS-09-base-url-up", _get(b"/base/../x", b"127.0.0.1:8080"), status=(400, 403), stays=True),
    Case("SS-09-base-url-longer", _get(b"/basex", b"127.0.0.1:8080"), status=(403,), stays=True),
]
HOSTS = [
    Case("HD-22-target-rules", _get(b"http://app.internal/x", b"user.internal"), _sees(b"/x")),
    Case("HD-22-target-rules-unrouted-host", _get(b"http://app.internal/x", b"evil.test"), _sees(b"/x")),
    Case("HD-22-unrouted-target", _get(b"http://evil.test/x", b"app.internal"), status=(403,), stays=True),
    Case("HD-22-empty-host-in-absolute", b"GET http://app.internal/x HTTP/1.1\r\nHost:\r\n\r\n", _sees(b"/x")),
    Case("HD-22-empty-host-in-origin", b"GET /x HTTP/1.1\r\nHost:\r\n\r\n", status=(400, 403), stays=True),
    Case("HD-22-no-host-in-absolute", b"GET http://app.internal/x HTTP/1.1\r\n\r\n" + SMUGGLED),
    Case("HD-22-no-host-in-origin", b"GET /x HTTP/1.1\r\n\r\n" + SMUGGLED),
    Case("HD-22-no-host-1.0-absolute", b"GET http://app.internal/x HTTP/1.0\r\n\r\n", _sees(b"/x")),
    Case("HD-22-no-host-1.0-origin", b"GET /base/x HTTP/1.0\r\n\r\n", _sees(b"/v1/x")),
    Case("HD-22-query-without-path", _get(b"http://app.internal?x=y"), _sees(b"/?x=y")),
    Case("HD-22-no-path", _get(b"http://app.internal"), _sees(b"/")),
    Case("HD-22-options-star", b"OPTIONS * HTTP/1.1\r\nHost: app.internal\r\n\r\n", (Expected(b"OPTIONS", b"*"),)),
    Case("HD-22-options-absolute-no-path", b"OPTIONS http://app.internal HTTP/1.1\r\nHost: app.internal\r\n\r\n",
         (Expected(b"OPTIONS", b"*"),)),
    Case("HD-22-options-absolute-root", b"OPTIONS http://app.internal/ HTTP/1.1\r\nHost: app.internal\r\n\r\n",
         (Expected(b"OPTIONS", b"/"),)),
    Case("HD-22-options-absolute-query", b"OPTIONS http://app.internal?q HTTP/1.1\r\nHost: app.internal\r\n\r\n",
         (Expected(b"OPTIONS", b"/?q"),)),
] + [
    Case(f"HD-22-host-{name}", b"GET http://app.internal/x HTTP/1.1\r\n" + lines + b"\r\n" + SMUGGLED)
    for name, lines in {
        "twice": b"Host: app.internal\r\nHost: app.internal\r\n",
        "two-different": b"Host: app.internal\r\nHost: evil.test\r\n",
        "two-cases": b"Host: app.internal\r\nhOST: evil.test\r\n",
        "comma": b"Host: app.internal, evil.test\r\n",
        "userinfo": b"Host: a@app.internal\r\n",
        "path": b"Host: app.internal/x\r\n",
        "url": b"Host: http://app.internal\r\n",
        "two-ports": b"Host: app.internal:80:80\r\n",
        "bad-port": b"Host: app.internal:99999\r\n",
        "space": b"Host: app.internal evil.test\r\n",
        "tab": b"Host: app\tinternal\r\n",
        "utf8": b"Host: \xc3\xa4pp.internal\r\n",
        "nul": b"Host: app.internal\x00\r\n",
        "backslash": b"Host: app.internal\\\r\n",
        "percent": b"Host: app%2einternal\r\n",
        "folded": b"Host:\r\n app.internal\r\n",
        "space-before-colon": b"Host : app.internal\r\n",
        "question": b"Host: app.internal?\r\n",
        "hash": b"Host: app.internal#\r\n",
        "ipv6-unclosed": b"Host: [::1\r\n",
    }.items()
]  # fmt: skip
METHODS = [
    Case("LK-05-trace", b"TRACE @/x@ HTTP/1.1\r\nHost: @host@\r\n\r\n", status=(403, 405), stays=True),
    Case("LK-05-trace-without-token", b"TRACE @/x@ HTTP/1.1\r\nHost: @host@\r\n\r\n", (Expected(b"TRACE", b"/x"),),
         host=b"none.internal"),
    Case("HD-11-max-forwards-0", b"OPTIONS @/x@ HTTP/1.1\r\nHost: @host@\r\nMax-Forwards: 0\r\n\r\n",
         status=(200, 204, 403), stays=True),
    Case("HD-11-max-forwards-junk", b"OPTIONS @/x@ HTTP/1.1\r\nHost: @host@\r\nMax-Forwards: x\r\n\r\n",
         status=(400,), stays=True),
    Case("HD-11-max-forwards-twice",
         b"OPTIONS @/x@ HTTP/1.1\r\nHost: @host@\r\nMax-Forwards: 5\r\nMax-Forwards: 0\r\n\r\n", status=(400, 403),
         stays=True),
    *(Case(f"SM-14-method-{method.decode()}", method + b" @/x@ HTTP/1.1\r\nHost: @host@\r\n\r\n",
           (Expected(method, b"/x"),))
      for method in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"PROPFIND", b"REPORT", b"PURGE",
                     b"MKCOL", b"QUERY", b"BASELINE-CONTROL", b"UPDATEREDIRECTREF", b"DESCRIBE", b"SOURCE", b"FOO", b"get", b"Post",
                     b"GETX", b"GE", b"x", b"!#$%&'*+-.^_`|~09", b"X" * 64)),
]  # fmt: skip


@table(PATHS, UNCLEAR_PATHS, METHODS)
def test_path_and_method_arrive_as_they_came_or_are_refused(both: dict[str, Corridor], case: Case, variant: Variant):
    """The bytes of the path are the caller's; a path with two readings gets no token."""
    run(both, case, variant)


@table(BAD_TARGETS, OTHER_SCHEMES, ELSEWHERE, SAME_ROUTE, SEGMENTS, HOSTS, variants=ONCE)
def test_request_goes_where_its_target_says_or_nowhere(both: dict[str, Corridor], case: Case, variant: Variant):
    """One reading of authority and path decides the route; disguises of a routed host are that host or no host."""
    run(both, case, variant)


# -- header lines ---------------------------------------------------------------------------------------------------

KEPT: dict[str, bytes] = {
    "HD-13-nothing-invented": b"",
    "HD-12-case-order-duplicates": b"zZ: 1\r\na: 2\r\nA: 3\r\nZz: 4\r\na: 2\r\n",
    "HD-12-empty-values": b"A:\r\nB: \r\nC:\t\r\nD:x\r\nE:  x  \r\n",
    "HD-12-obs-text": b"A: \x80\xff\xe9\r\n",
    "HD-12-tchars": b"!#$%&'*+-.^_`|~09azAZ: x\r\n",
    "HD-12-tab-in-value": b"A: b\tc\r\n",
    "HD-12-sixty": b"".join(b"X-%d: %d\r\n" % (n % 7, n) for n in range(60)),
    "HD-15-accept-encoding": b"Accept-Encoding: br;q=1.0, zstd, *;q=0\r\nContent-Encoding: made-up\r\n",
    "HD-16-odd-cookies": b'Cookie: a="b c"; d=\xc3\xa9; e; =f; g==; h=1;h=2\r\ncookie: i=j\r\n',
    "HD-16-cookie-8k": b"Cookie: a=" + b"x" * 8192 + b"\r\n",
    "HD-17-conditionals": b'Range: bytes=0-1,5-\r\nIf-Range: "x"\r\nIf-None-Match: *\r\nIf-Modified-Since: junk\r\n',
    "HD-24-forwarded": b"X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Forwarded-Host: evil\r\n",
    "HD-09-via-kept": b"Via: 1.0 fred\r\n",
    "CF-11-proxy-header": b"Proxy: http://evil.test\r\n",
    "LK-12-referer": b"Referer: https://x/?access_token=abc\r\n",
    "SM-27-encoded-crlf": b"X: %0d%0aEvil: 1\r\n",
    "HD-18-trailer-announced": b"Trailer: X-Sum\r\n",
    "HD-12-traceparent": b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
    "HD-11-max-forwards-on-get": b"Max-Forwards: 0\r\n",
    "HD-05-client-secret-like": b"Client-Secret: x\r\n",
    "HD-04-x-authorization": b"X-Authorization: Bearer x\r\n",
    "SM-16-expect-odd": b"Expect: y 100-continue\r\n",
    "SM-26-http2-like": b"HTTP2-Something: x\r\n",
}  # fmt: skip
GONE: dict[str, tuple[bytes, bytes]] = {
    "HD-01-nominated": (b"A: 1\r\nConnection: a, b\r\nB: 2\r\nC: 3\r\n", b"C: 3\r\n"),
    "HD-01-repeated": (b"Connection: a\r\nA: 1\r\nConnection: B\r\nb: 2\r\nC: 3\r\n", b"C: 3\r\n"),
    "HD-01-odd-list": (b"Connection: ,, a ,\t,close\r\nA: 1\r\nC: 3\r\n", b"C: 3\r\n"),
    "HD-02-host": (b"Connection: host\r\n", b""),
    "HD-02-content-length": (b"Connection: content-length\r\n", b""),
    "HD-02-authorization": (b"Connection: authorization\r\nAuthorization: Bearer evil\r\n", b""),
    "HD-03-hop-by-hop": (
        (b"Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: x\r\nA: 1\r\n"
        b"Proxy-Authorization: Basic Zm9vOmJhcg==\r\nProxy-Authenticate: Basic\r\nProxy-Authentication-Info: x\r\n"),
        b"A: 1\r\n",
    ),
    "HD-04-authorization": (b"Authorization: Basic Zm9vOmJhcg==\r\nA: 1\r\n", b"A: 1\r\n"),
    "HD-04-authorization-twice": (b"authorization: a\r\nA: 1\r\nAUTHORIZATION: b\r\n", b"A: 1\r\n"),
    "HD-04-authorization-lookalike": (b"Authorization_: a\r\nA: 1\r\n", b"Authorization_: a\r\nA: 1\r\n"),
    "HD-06-dpop": (b"DPoP: proof\r\nAuthorization: DPoP x\r\nA: 1\r\n", b"A: 1\r\n"),
    "HD-08-session-header": (b"X-Session-Id: abc\r\nA: 1\r\n", b"A: 1\r\n"),
    "HD-07-underscore": (b"X_Session_Id: abc\r\nX-Session_Id: abc\r\nA: 1\r\n", b"A: 1\r\n"),
    "HD-08-cookie": (b"Cookie: a=1; sidecar_session=abc; b=2\r\n", b"Cookie: a=1; b=2\r\n"),
    "HD-08-cookie-alone": (b"Cookie: sidecar_session=abc\r\nA: 1\r\n", b"A: 1\r\n"),
    "HD-08-cookie-first": (b"cookie: sidecar_session=abc; b=2\r\n", b"cookie: b=2\r\n"),
    "HD-08-cookie-last": (b"Cookie:b=2;sidecar_session=abc\r\n", b"Cookie: b=2\r\n"),
    "HD-08-cookie-twice": (b"Cookie: sidecar_session=x; a=1\r\nCookie: sidecar_session=x\r\n", b"Cookie: a=1\r\n"),
    "HD-08-cookie-padded": (b"Cookie: a=1;  sidecar_session = abc ;b=2\r\n", b"Cookie: a=1;b=2\r\n"),
    "HD-08-cookie-similar": (b"Cookie: xsidecar_session=1; sidecar_session2=2\r\n",
                             b"Cookie: xsidecar_session=1; sidecar_session2=2\r\n"),
    "SM-26-h2c": (b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nA: 1\r\n",
                  b"A: 1\r\n"),
    "SM-26-h2c-among-others": (b"Connection: Upgrade\r\nUpgrade: websocket, H2C\r\nA: 1\r\n", b"A: 1\r\n"),
    "SM-26-upgrade-not-named-by-connection": (b"Upgrade: websocket\r\nA: 1\r\n", b"A: 1\r\n"),
    "SM-05-framing-lookalikes": (b"Content_Length: 5\r\nTransfer_Encoding: chunked\r\nA: 1\r\n", b"A: 1\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("case", [*KEPT, *GONE])
def test_header_lines_arrive_but_for_the_declared_changes(both: dict[str, Corridor], case: str, variant: Variant):
    """[HD-12] The upstream sees the bytes that came: request line, Host rewritten, what goes on, the credential."""
    lines, kept = GONE.get(case) or (KEPT[case], KEPT[case])
    corridor = start(both, variant)
    with corridor.client() as client:
        client.send(fill(b"GET @/x@ HTTP/1.1\r\nhOsT: @host@\r\n" + lines + b"\r\n", variant.form, b"app.internal"))
        answer = client.answer()
    assert answer is not None
    assert answer.status == 200, answer
    [stream] = corridor.streams()
    proper(only_request(corridor), corridor.upstream.port)
    port = b"%d" % corridor.upstream.port
    assert stream == b"GET /x HTTP/1.1\r\nhOsT: 127.0.0.1:%b\r\n%bAuthorization: Bearer token-of-app-1\r\n\r\n" % (
        port,
        kept,
    )
    assert corridor.faults == []


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_route_without_token_keeps_the_callers_authorization(both: dict[str, Corridor], loop: LoopKind):
    """[HD-04] Where no token of ours is put, the caller's own Authorization goes on."""
    corridor = both[loop]
    corridor.fresh()
    with corridor.client() as client:
        client.send(
            b"GET /x HTTP/1.1\r\nHost: none.internal\r\nAuthorization: Basic a\r\nX-Session-Id: s\r\n\r\n"
        ).answer()
    seen = only_request(corridor)
    assert seen.all(b"authorization") == [b"Basic a"]
    assert seen.all(b"x-session-id") == []


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize(
    ("method", "sent", "seen"), [(b"OPTIONS", b"5", b"4"), (b"TRACE", b"1", b"0"), (b"GET", b"5", b"5")]
)
def test_max_forwards_is_counted_down_for_options_and_trace(
    both: dict[str, Corridor], method: bytes, sent: bytes, seen: bytes, variant: Variant
):
    """[HD-11] Max-Forwards goes down by one for the methods that it is for, and is nobody's business otherwise."""
    corridor = start(both, variant)
    with corridor.client() as client:
        head = b"%b @/x@ HTTP/1.1\r\nHost: @host@\r\nMax-Forwards: %b\r\n\r\n" % (method, sent)
        client.send(fill(head, variant.form, b"none.internal"))
        answer = client.answer(method)
        client.send(fill(head, variant.form, b"none.internal"))
        assert client.answer(method) is not None
    assert answer is not None
    assert [request.all(b"max-forwards") for request in requests(corridor)] == [[seen], [seen]]


TRAILERS = (
    pytest.param(b"X-Sum: 1\r\n", [(b"X-Sum", b"1")], id="HD-18-plain"),
    pytest.param(b"Authorization: Bearer evil\r\nX: 1\r\n", [(b"X", b"1")], id="HD-18-authorization"),
    pytest.param(b"X-Session-Id: bob\r\nX: 1\r\n", [(b"X", b"1")], id="HD-07-session"),
    pytest.param(b"X_Session_Id: bob\r\nX: 1\r\n", [(b"X", b"1")], id="HD-07-session-lookalike"),
    pytest.param(b"Cookie: sidecar_session=bob\r\nHost: evil\r\n", [], id="HD-18-cookie-and-host"),
    pytest.param(b"Connection: x\r\nTE: y\r\nExpect: z\r\n", [], id="HD-18-hop-by-hop"),
)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize(("trailers", "arrive"), TRAILERS)
def test_request_trailers_arrive_as_trailers(
    both: dict[str, Corridor], trailers: bytes, arrive: list[tuple[bytes, bytes]], variant: Variant
):
    """[HD-18] Trailers stay trailers; those that frame, route, authenticate or identify are dropped."""
    corridor = start(both, variant)
    with corridor.client() as client:
        head = b"POST @/x@ HTTP/1.1\r\nHost: @host@\r\nTransfer-Encoding: chunked\r\nX-Session-Id: alice\r\n\r\n"
        client.send(fill(head, variant.form, b"user.internal") + b"2\r\nhi\r\n0\r\n" + trailers + b"\r\n")
        answer = client.answer(b"POST")
    assert answer is not None
    assert answer.status == 200
    seen = only_request(corridor)
    assert (seen.body, seen.trailers) == (b"hi", arrive)
    assert seen.all(b"authorization") == [b"Bearer token-of-alice-1"]


# -- identity -------------------------------------------------------------------------------------------------------

ALICE = b"X-Session-Id: alice\r\n"
ALICE_COOKIE = b"Cookie: " + SESSION_COOKIE.encode() + b"=alice\r\n"
IDENTITIES: dict[str, tuple[bytes, str | int]] = {
    "ID-09-header": (ALICE, "alice"),
    "ID-09-cookie": (ALICE_COOKIE, "alice"),
    "ID-09-header-odd-case": (b"x-SESSION-iD:alice \r\n", "alice"),
    "ID-06-header-and-same-cookie": (ALICE + ALICE_COOKIE, "alice"),
    "ID-06-header-twice-same": (ALICE + ALICE, "alice"),
    "ID-06-header-twice": (ALICE + b"X-Session-Id: bob\r\n", 400),
    "ID-06-cookie-twice": (ALICE_COOKIE + b"Cookie: sidecar_session=bob\r\n", 400),
    "ID-06-cookie-twice-in-one": (b"Cookie: sidecar_session=alice; sidecar_session=bob\r\n", 400),
    "ID-06-first-source-decides": (b"X-Session-Id: bob\r\n" + ALICE_COOKIE, "alice"),
    "HD-07-underscore": (b"X_Session_Id: alice\r\n", 401),
    "HD-07-underscore-beside": (ALICE + b"X_Session_Id: bob\r\n", "alice"),
    "HD-07-lookalike-cookie": (b"Cookie: Sidecar_Session=alice; xsidecar_session=bob\r\n", 401),
    "HD-02-nominated": (ALICE + b"Connection: x-session-id\r\n", "alice"),
    "HD-02-nominated-cookie": (ALICE_COOKIE + b"Connection: cookie\r\n", "alice"),
    "ID-01-none": (b"", 401),
    "ID-01-empty": (b"X-Session-Id:\r\n", 401),
    "ID-01-empty-cookie": (b"Cookie: sidecar_session=\r\n", 401),
    "ID-01-space": (b"X-Session-Id: al ice\r\n", 401),
    "ID-01-comma": (b"X-Session-Id: alice, bob\r\n", 401),
    "ID-01-utf8": (b"X-Session-Id: \xc3\xa4\r\n", 401),
    "ID-01-long": (b"X-Session-Id: " + b"x" * 4096 + b"\r\n", 401),
    "ID-01-quote": (b'X-Session-Id: "alice"\r\n', 401),
    "ID-01-gone": (b"X-Session-Id: gone\r\n", 401),
    "ID-09-cold": (b"X-Session-Id: cold\r\n", "cold"),
    "SM-27-encoded-crlf": (b"X-Session-Id: alice%0d%0aX:y\r\n", "alice%0d%0aX:y"),
    "PD-02-authorization-beside": (ALICE + b"Authorization: Bearer token-of-bob-1\r\n", "alice"),
}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("case", IDENTITIES)
def test_session_is_believed_from_its_own_places_only(both: dict[str, Corridor], case: str, variant: Variant):
    """[ID-06, HD-07] One session in the configured places gives its token; two, none or a look-alike give a refusal."""
    lines, outcome = IDENTITIES[case]
    corridor = start(both, variant)
    with corridor.client() as client:
        answer: Answer | None = None
        for _ in range(2):
            client.send(
                fill(b"GET @/x@ HTTP/1.1\r\nHost: @host@\r\n" + lines + b"\r\n", variant.form, b"user.internal")
            )
            answer = client.answer()
        assert answer is not None
    found = list(requests(corridor))
    if isinstance(outcome, int):
        assert found == []
        assert answer.status == outcome
        assert b"alice" not in answer.body
        assert json.loads(answer.body)["code"] in ("login_required", "bad_request")
    else:
        assert answer.status == 200
        for request in found:
            proper(request, corridor.upstream.port)
            assert request.all(b"authorization") == [b"Bearer token-of-%b-1" % outcome.encode()]
            assert not any(name.lower().replace(b"_", b"-") == b"x-session-id" for name, _ in request.headers)
            assert b"sidecar_session" not in b"".join(request.all(b"cookie")).replace(b"xsidecar_session", b"")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_users_alternating_on_one_connection_get_their_own_tokens(both: dict[str, Corridor], loop: LoopKind):
    """[ID-09, LK-02] Nothing about a caller is remembered on a connection."""
    corridor = both[loop]
    corridor.fresh()
    lines = (ALICE, b"X-Session-Id: bob\r\n", ALICE_COOKIE, b"", b"X-Session-Id: cold-carol\r\n", ALICE)
    with corridor.client() as client:
        client.send(b"".join(b"GET /x HTTP/1.1\r\nHost: user.internal\r\n" + line + b"\r\n" for line in lines))
        assert [answer.status for answer in client.answers([b"GET"] * 6)] == [200, 200, 200, 401, 200, 200]
    tokens = [request.all(b"authorization")[0].split(b"-of-")[1] for request in requests(corridor)]
    assert sorted(tokens) == [b"alice-1", b"alice-1", b"alice-1", b"bob-1", b"cold-carol-1"]
