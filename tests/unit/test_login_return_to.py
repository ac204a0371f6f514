"""Where a browser may land: what is allowed, and every disguise of what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.login.return_to import LONGEST, landing, origin_of, read

OWN = "https://app.example.com"
ALLOWED = ("https://app.example.com/app", "https://other.example.com:8443/", "http://localhost:3000/dev/")

GOOD = [
    (None, "https://app.example.com/app"),
    ("/app", "https://app.example.com/app"),
    ("/app/", "https://app.example.com/app/"),
    ("/app/page", "https://app.example.com/app/page"),
    ("/app?x=1&y=a/b?c", "https://app.example.com/app?x=1&y=a/b?c"),
    ("/app/a%20b?q=%2F%2Fevil#top", "https://app.example.com/app/a%20b?q=%2F%2Fevil#top"),
    ("/app#//evil.example", "https://app.example.com/app#//evil.example"),
    ("/app/#/route?x=1", "https://app.example.com/app/#/route?x=1"),
    ("https://app.example.com/app/page", "https://app.example.com/app/page"),
    ("https://app.example.com:443/app", "https://app.example.com/app"),
    ("HTTPS://APP.EXAMPLE.COM/app", "https://app.example.com/app"),
    ("https://other.example.com:8443", "https://other.example.com:8443/"),
    ("https://other.example.com:8443/any/thing", "https://other.example.com:8443/any/thing"),
    ("http://localhost:3000/dev", "http://localhost:3000/dev"),
    ("http://localhost:3000/dev/x;y=1", "http://localhost:3000/dev/x;y=1"),
]
BAD = [
    "", "app", "?x", "#x", "//evil.example", "//evil.example/app", "///evil.example", "/\\evil.example", "\\\\evil.example", "/\\/evil.example",
    "%09//evil.example", "\t//evil.example", "/\t/evil.example", "/%09/evil.example", "/app\n", "/app\r\nSet-Cookie: a=b", " /app", "/app ",
    "/%2f/evil.example", "/app/%2f..%2fx", "/%5cevil.example", "/app/%5C..", "/app/..", "/app/../", "/app/../admin", "/app/./x", "/app/..;/x",
    "/app/%2e%2e/admin", "/app/%2E%2e", "/app/.%2e/x", "/app//evil.example", "/app/x//y", "/app/%00", "/app/%0d%0aX:y", "/app/%zz", "/app/%2",
    "/", "/application", "/ap", "/App", "/admin/app",
    "https://evil.example", "https://evil.example/app", "https://app.example.com.evil.example/app", "https://evil-app.example.com/app",
    "https://app.example.com@evil.example/app", "https://app.example.com:x@evil.example/app", "https://user@app.example.com/app", "https://@app.example.com/app",
    "https://app.example.com%40evil.example/app", "https://app.example.com\\@evil.example/app", "https://evil.example\\.app.example.com/app", "https://evil.example#@app.example.com/app",
    "https://evil.example?@app.example.com/app", "https://app.example.com./app", "https://app.example.com:8443/app", "https://app.example.com:/app", "https://app.example.com:99999/app",
    "https://other.example.com/", "https://other.example.com:443/", "http://other.example.com:8443/", "http://app.example.com/app", "https://localhost:3000/dev/", "http://localhost/dev", "http://127.0.0.1:3000/dev/",
    "https:app.example.com/app", "https:/app.example.com/app", "https:///app.example.com/app", "https:\\\\app.example.com/app", "https:////evil.example/app", "//app.example.com/app",
    "javascript:alert(1)", "javascript://app.example.com/app%0aalert(1)", "data:text/html,x", "ftp://app.example.com/app", "file:///app", "blob:https://app.example.com/app", "httpss://app.example.com/app",
    "https://\u0430pp.example.com/app", "https://app.example.com/\u00e4pp", "https://app.example.com\uff0fapp", "https://app\u3002example.com/app", "https://[::1]/app", "https://[app.example.com]/app",
    "/app/" + "a" * LONGEST, "/app?x=<script>", '/app?"', "/app?`", "/app?{x}", "/app?a b", "\u2028/app", "\ufeff/app", "/app\x00", "/app\x7f",
]  # fmt: skip


@pytest.mark.parametrize(("asked", "found"), GOOD)
def test_allowed_place_is_returned_as_an_absolute_url(asked: str | None, found: str) -> None:
    """Exact origins, paths by whole segments, and the first place where none is asked for."""
    assert landing(asked, ALLOWED, OWN) == found


@pytest.mark.parametrize("asked", BAD)
def test_place_that_is_not_allowed_is_refused(asked: str) -> None:
    """[ID-13] Whatever a browser could read as another place than the one that was checked."""
    assert landing(asked, ALLOWED, OWN) is None


def test_everything_below_a_root_is_allowed() -> None:
    """A place without a path allows its whole origin, and no other."""
    assert landing("/any/thing", ("https://app.example.com/",), OWN) == "https://app.example.com/any/thing"
    assert landing("/", ("https://app.example.com/",), OWN) == "https://app.example.com/"
    assert landing("//evil.example", ("https://app.example.com/",), OWN) is None


@given(st.text(alphabet="/\\.@:?#;%ehttps205cfaFEvil\t \n", max_size=30))
def test_whatever_is_returned_is_below_an_allowed_place(asked: str) -> None:
    """The answer begins with an allowed place and its next character ends the segment; browsers agree on the rest."""
    for text in (asked, "/app" + asked, "https://app.example.com" + asked):
        found = landing(text, ALLOWED, OWN)
        if found is not None:
            roots = [place.rstrip("/") for place in ALLOWED]
            assert any(found.startswith(root) and found[len(root) :][:1] in ("", "/", "?", "#") for root in roots)
            assert "\\" not in found
            assert "//" not in found.partition("://")[2].partition("?")[0].partition("#")[0]


@pytest.mark.parametrize(
    ("url", "origin"),
    [("https://a.example/x", "https://a.example"), ("http://a.example:80", "http://a.example"), ("http://[::1]:81/", "http://[::1]:81"), ("x", "")],
)  # fmt: skip
def test_origin_is_as_browsers_write_it(url: str, origin: str) -> None:
    """Lower case, and the port only where it is not the scheme's own."""
    assert origin_of(url) == origin


def test_longest_url_is_read() -> None:
    """The bound is on the whole text."""
    assert read("/" + "a" * (LONGEST - 1), OWN) is not None
    assert read("/" + "a" * LONGEST, OWN) is None
