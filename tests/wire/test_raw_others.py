"""What other people's suites ask of a reader of HTTP/1.1 (llhttp, http-garden, Http11Probe, gunicorn, Go), in our words.

Right if rare: it goes on, and every reader reads the same. Hopeless before it is whole: refused at once, no caller waits
for a deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.judge import Case, Expected, Variant, run, table

if TYPE_CHECKING:
    from tests.support.corridor import Corridor

POST = b"POST @/x@ HTTP/1.1\r\nHost: @host@\r\n"
GET = b"GET @/x@ HTTP/1.1\r\nHost: @host@\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
SEES_GET = (Expected(b"GET", b"/x"),)
SEES_HI = (Expected(b"POST", b"/x", b"hi"),)
ONE = (Variant("absolute", "asyncio", True), Variant("origin", "uvloop", False))
ORIGIN = (Variant("origin", "asyncio", False), Variant("origin", "uvloop", True))

CHUNKS = [
    Case(f"SM-11-{name}", CHUNKED + b"\r\n" + body, SEES_HI)
    for name, body in {
        "ext-without-value": b"2;a\r\nhi\r\n0\r\n\r\n",
        "ext-quoted-pair": b'2;a="\\"x"\r\nhi\r\n0\r\n\r\n',
        "ext-quoted-obs-text": b'2;a="\xe9"\r\nhi\r\n0\r\n\r\n',
        "ext-quoted-tab": b'2;a="x\ty"\r\nhi\r\n0\r\n\r\n',
        "ext-quoted-nothing": b'2;a=""\r\nhi\r\n0\r\n\r\n',
        "exts-everywhere": b'2;a;b;c=d;e="f g"\r\nhi\r\n0;z=1\r\n\r\n',
        "size-of-20-digits": b"00000000000000000002\r\nhi\r\n0000\r\n\r\n",
        "trailer-obs-text": b"2\r\nhi\r\n0\r\nX-A: \xe9 a\r\n\r\n",
        "trailer-without-value": b"2\r\nhi\r\n0\r\nX-A:\r\n\r\n",
    }.items()
]
# The grammar allows white space here only for readers to be forgiving (RFC 9112 section 7.1.1): no sender writes it.
BAD_WHITE_SPACE = [
    Case(f"SM-11-{name}", CHUNKED + b"\r\n" + line + b"\r\nhi\r\n0\r\n\r\n", SEES_HI, or_refused=True, partly=True)
    for name, line in {
        "white-space-before-ext": b"2 ;a=b",
        "white-space-behind-semicolon": b"2; a=b",
        "white-space-around-equals": b"2;a = b",
    }.items()
]
FRAMES = [
    Case("SM-05-tabs-before-chunked", POST + b"Transfer-Encoding:\t \tchunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", SEES_HI),
    Case("SM-05-space-behind-chunked", POST + b"Transfer-Encoding: chunked \r\n\r\n2\r\nhi\r\n0\r\n\r\n", SEES_HI),
    Case("SM-05-tab-behind-chunked", POST + b"Transfer-Encoding: chunked\t\r\n\r\n2\r\nhi\r\n0\r\n\r\n", SEES_HI,
         or_refused=True),
    Case("SM-06-length-with-spaces", POST + b"cONTENT-lENGTH:  2 \r\n\r\nhi", SEES_HI),
    Case("STR-03-expect-in-capitals", POST + b"Expect: 100-CONTINUE\r\nContent-Length: 2\r\n\r\nhi", SEES_HI),
    Case("WS-07-upgrade-with-a-body", POST + b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi",
         SEES_HI),
    Case("SM-24-nul-behind-a-body", CHUNKED + b"\r\n2\r\nhi\r\n0\r\n\r\n\x00", SEES_HI),
    Case("SM-24-empty-lines-between", b"\r\n" + GET + b"\r\n\r\n\r\n" + GET + b"\r\n", SEES_GET * 2),
]  # fmt: skip
HEADS = [
    Case(f"{name}", GET + lines + b"\r\n", SEES_GET)
    for name, lines in {
        "HD-12-tabs-inside": b"X:\ta\tb\t\r\n",
        "HD-01-connection-quoted": b'Connection: "close"\r\n',
        "HD-01-connection-with-parameters": b"Connection: foo=bar; baz\r\n",
        "HD-02-connection-cookie": b"Connection: cookie\r\nCookie: a=b\r\n",
        "HD-16-cookie-of-signs": b"Cookie: ===;;;  ; x\r\n",
        "HD-16-cookie-empty": b"Cookie:\r\n",
        "HD-09-via-list": b"Via: 1.1 a, 1.0 b (c)\r\n",
        "WS-07-upgrade-empty": b"Connection: upgrade\r\nUpgrade:\r\n",
        "WS-07-upgrade-list": b"Connection: upgrade\r\nUpgrade: foo/2, bar\r\n",
        "STR-03-expect-empty": b"Expect:\r\n",
    }.items()
]
TARGETS = [
    Case(f"HD-23-target-{n}", b"GET @%b@ HTTP/1.1\r\nHost: @host@\r\n\r\n" % path, (Expected(b"GET", path),))
    for n, path in enumerate(
        (b"//", b"///a//", b"/a:b", b"/a,b", b"/'()*!$&+=~", b"/%20%0a%ff", b"/a?", b"/??", b"/?a=/../b", b"/?a=%2f..%2f",
         b"/?;", b"/a.b..c", b"/...", b"/a.", b"/[a]", b"/{a}", b"/a|b", b"/a^b", b"/a`b", b'/a"b', b"/<a>", b"/%", b"/%z",
         b"/a%", b'/?a="b"', b"/?a[]=b", b"/?a={}", b"/?a\\b", b"/" + b"a" * 8000)
    )
]  # fmt: skip


@table(CHUNKS, BAD_WHITE_SPACE, FRAMES, HEADS, TARGETS, variants=ONE)
def test_right_but_rare_is_forwarded_with_one_reading(both: dict[str, Corridor], case: Case, variant: Variant):
    """Too strict is a fault as well: what the grammar allows and somebody sends goes on."""
    run(both, case, variant)


HOSTS = [
    Case(f"SS-11-host-{n}", b"GET /x HTTP/1.1\r\nHost:%b\r\n\r\n" % host, SEES_GET)
    for n, host in enumerate((b" app.internal:80", b" app.internal:", b"APP.Internal", b" app.internal.",
                              b"\t app.internal \t", b" app.internal:0080"))
]  # fmt: skip
URLS = [
    Case(f"SS-11-{name}", b"%b HTTP/1.1\r\nHost: other\r\n\r\n" % line, (Expected(line[: line.find(b" ")], target),))
    for name, line, target in (
        ("scheme-in-capitals", b"GET HTTP://app.internal/x", b"/x"),
        ("port", b"GET http://app.internal:80/x", b"/x"),
        ("empty-port", b"GET http://app.internal:/x", b"/x"),
        ("no-path", b"GET http://app.internal", b"/"),
        ("query-without-path", b"GET http://app.internal?a=b", b"/?a=b"),
        ("empty-query", b"GET http://app.internal/?", b"/?"),
        ("url-in-query", b"GET http://app.internal/x?u=http://y/z", b"/x?u=http://y/z"),
        ("options-without-path", b"OPTIONS http://app.internal", b"*"),
        ("options-with-path", b"OPTIONS http://app.internal/", b"/"),
        ("options-with-query", b"OPTIONS http://app.internal?a", b"/?a"),
    )
]


@table(HOSTS, URLS, variants=ORIGIN)
def test_spellings_of_one_place_are_one_place(both: dict[str, Corridor], case: Case, variant: Variant):
    """The target rules, whatever Host says beside it; ports, dots and capitals make no other place (RFC 3986 section 6)."""
    run(both, case, variant)


TOKENS = [
    Case(f"HD-05-{name}", b"GET @/x?" + query + b"@ HTTP/1.1\r\nHost: @host@\r\n\r\n", stays=True)
    for name, query in {
        "plain": b"access_token=x",
        "behind-another": b"a=%20&access_token=x",
        "behind-a-semicolon": b"a=b;access_token=x",
        "escaped": b"access%5Ftoken=x",
        "escaped-whole": b"a=b&%61%63%63%65%73%73%5f%74%6f%6b%65%6e=x",
    }.items()
]
NO_TOKENS = [
    Case(f"HD-05-{name}", b"GET @%b@ HTTP/1.1\r\nHost: @host@\r\n\r\n" % target, (Expected(b"GET", target),))
    for name, target in {
        "in-the-path": b"/access_token=x",
        "in-a-value": b"/x?a=access_token%3Dx",
        "part-of-a-name": b"/x?my_access_token=x&access_tokens=%20&a%63cess_token_type=y",
        "escaped-value": b"/x?a=%61ccess_token&b=%zz",
    }.items()
]


@table(TOKENS, NO_TOKENS, variants=ONE)
def test_token_in_the_query_is_refused_however_it_is_spelled(both: dict[str, Corridor], case: Case, variant: Variant):
    """An upstream that decodes names must not find another token than ours; what only looks like one goes on."""
    run(both, case, variant)


HOPELESS = [
    Case(f"SM-24-unfinished-{name}", stream)
    for name, stream in {
        "http-0.9": b"GET /\r\n",
        "proxy-protocol": b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
        "version-5.6": b"GET / HTTP/5.6\r\n",
        "bare-cr-for-crlf": b"GET / HTTP/1.1\rHost: app.internal\r",
        "bare-cr-in-a-line": GET + b"X: a\rb",
        "bare-cr-before-crlf": GET + b"X: a\r\r\n",
        "junk-instead-of-lf": GET + b"\rZGET /evil: HTTP/1.1\r\n",
        "bare-lf": GET + b"X: a\nb",
        "sip": b"OPTIONS sip:x SIP/2.0\r\n",
    }.items()
]


@table(HOPELESS, variants=ORIGIN)
def test_head_that_can_become_no_request_is_refused_before_it_is_whole(
    both: dict[str, Corridor], case: Case, variant: Variant
):
    """Waiting for the rest would cost a deadline, and tell nobody what is wrong."""
    run(both, case, variant)
