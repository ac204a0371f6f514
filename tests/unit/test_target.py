"""Request targets: which host, port and path they mean, or that nobody can say."""

from __future__ import annotations

from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Refusal
from sidecar.target import other_readings, read_target
from tests.support.heads import get, request_head

VISIBLE = "".join(chr(octet) for octet in range(0x21, 0x7F))

READ = (
    # target, host, form, scheme, host, port, path, compared, plain
    (b"/x?y", b"a.test", "origin", "http", "a.test", 80, b"/x?y", "/x", True),
    (b"/x", b"A.Test:8080", "origin", "http", "a.test", 8080, b"/x", "/x", True),
    (b"/x", b"a.test.", "origin", "http", "a.test", 80, b"/x", "/x", True),
    (b"/x", b"[::1]:81", "origin", "http", "::1", 81, b"/x", "/x", True),
    (b"/x", b"[0:0::0:1]:81", "origin", "http", "::1", 81, b"/x", "/x", True),
    (b"http://[2001:DB8::A]/", b"a.test", "absolute", "http", "2001:db8::a", 80, b"/", "/", True),
    (b"http://b.test/x", b"a.test", "absolute", "http", "b.test", 80, b"/x", "/x", True),
    (b"HTTPS://B.test:443/x", b"a.test", "absolute", "https", "b.test", 443, b"/x", "/x", True),
    (b"http://b.test", b"a.test", "absolute", "http", "b.test", 80, b"/", "/", True),
    (b"http://b.test?q=/a", b"a.test", "absolute", "http", "b.test", 80, b"/?q=/a", "/", True),
    (b"//b.test/x", b"a.test", "origin", "http", "a.test", 80, b"//b.test/x", "//b.test/x", True),
    (b"/%61%2Db", b"a.test", "origin", "http", "a.test", 80, b"/%61%2Db", "/a-b", True),
    (b"/%C3%A9", b"a.test", "origin", "http", "a.test", 80, b"/%C3%A9", "/%C3%A9", True),
    (b"/a/../b", b"a.test", "origin", "http", "a.test", 80, b"/a/../b", "/b", False),
    (b"/a/%2e%2e/b", b"a.test", "origin", "http", "a.test", 80, b"/a/%2e%2e/b", "/b", False),
    (b"/a/.", b"a.test", "origin", "http", "a.test", 80, b"/a/.", "/a/", False),
    (b"/../..", b"a.test", "origin", "http", "a.test", 80, b"/../..", "/", False),
    (b"/a%2fb", b"a.test", "origin", "http", "a.test", 80, b"/a%2fb", "/a%2fb", False),
    (b"/a%5Cb", b"a.test", "origin", "http", "a.test", 80, b"/a%5Cb", "/a%5Cb", False),
    (b"/a/..;x/b", b"a.test", "origin", "http", "a.test", 80, b"/a/..;x/b", "/a/..;x/b", False),
    (b"/a\\b", b"a.test", "origin", "http", "a.test", 80, b"/a\\b", "/a\\b", False),
    (b"/a%00", b"a.test", "origin", "http", "a.test", 80, b"/a%00", "/a%00", False),
)  # fmt: skip


@pytest.mark.parametrize("row", READ, ids=lambda row: row[0].decode())
def test_target_is_read(row: tuple[bytes, bytes, str, str, str, int, bytes, str, bool]):
    """[HD-23, SS-09, SS-11] The authority comes from the target; the path is kept for the wire, compared for routes."""
    target, host, *expected = row
    read = read_target(get(target, host=host))
    assert astuple(read)[:-1] == tuple(expected)
    assert read.harmless is (read.plain and read.scheme == "http" and "//" not in read.compared)


@pytest.mark.parametrize(
    "target",
    [
        b"/x?access_token=1",
        b"http://a.test/?a=b&access_token=1",
        b"/access_token=",
        b"https://a.test/",
        b"/%2f",
        b"/x?access%5ftoken=1",
        b"/a//b",
        b"/a;b",
    ],
)
def test_target_that_a_route_may_object_to_is_not_harmless(target: bytes):
    """What may hold a token, what asks for https, and what has two readings is looked at again."""
    assert not read_target(get(target)).harmless


@pytest.mark.parametrize(
    ("path", "readings"),
    [
        ("/a/b", []),
        ("//a", ["/a"]),
        ("/a///b//", ["/a/b/"]),
        ("/a;v=1/b;w", ["/a/b"]),
        ("/;x/admin", ["//admin", "/;x/admin", "/admin"]),
    ],
)
def test_path_is_read_as_upstreams_do_that_merge_slashes_or_drop_parameters(path: str, readings: list[str]):
    """[SS-09] Each of the two habits alone, and both."""
    assert list(other_readings(path)) == readings


REFUSED = (
    b"http://u@b.test/", b"http://u:p@b.test/", b"http://b.test#x", b"http://b.test/x#y", b"/x#y", b"http://b.test:0/",
    b"http://b.test:65536/", b"http://b.test:x/", b"http://b.test:1:2/", b"http://[::1/", b"http://[b.test]/", b"http:///x",
    b"http://[127.0.0.1]/", b"http://[:::]/", b"http://[12]/", b"http://[1:2:3]/",
    b"ftp://b.test/", b"ws://b.test/", b"http:/b.test/", b"*", b"b.test:80", b"http://b%2etest/", b"http://b.test\\@a.test/",
)  # fmt: skip


@pytest.mark.parametrize("target", REFUSED, ids=lambda target: target.decode())
def test_target_with_two_readings_is_refused(target: bytes):
    """[SS-04, SS-07] Decoys are refused as bad requests, and the connection is closed."""
    with pytest.raises(Refusal) as caught:
        read_target(get(target))
    assert caught.value.name == "bad_request"


@pytest.mark.parametrize(
    "host",
    [
        b"a@b",
        b"a/b",
        b"a:b",
        b"a b",
        b"a,b",
        b"[::1",
        b"a\\b",
        b"a%2e",
        b"\xc3\xa4",
        b"a:0",
        b"a:65536",
        b"a?b",
        b"a#b",
    ],
)
def test_host_is_checked_even_where_the_target_rules(host: bytes):
    """[HD-22] An ill-formed Host is refused in every form (RFC 9112 section 3.2)."""
    for target in (b"/", b"http://a.test/"):
        with pytest.raises(Refusal):
            read_target(get(target, host=host))


def test_host_must_be_there_once():
    """[HD-22] None or two are refused in HTTP/1.1; HTTP/1.0 may do without."""
    with pytest.raises(Refusal):
        read_target(get(b"/", host=None))
    with pytest.raises(Refusal):
        read_target(get(b"/", b"Host: a.test"))
    assert read_target(request_head(b"GET http://b.test/ HTTP/1.0\r\n\r\n")).host == "b.test"


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"*", b"*"), (b"http://b.test", b"*"), (b"http://b.test/", b"/"), (b"http://b.test?q", b"/?q")],
)
def test_options_of_the_server_itself_is_a_star(target: bytes, path: bytes):
    """[HD-22] RFC 9112 section 3.2.4: an OPTIONS without a path goes on as `*`."""
    assert read_target(get(target, method=b"OPTIONS")).path == path


@pytest.mark.parametrize(("target", "port"), [(b"b.test:443", 443), (b"[::1]:8443", 8443)])
def test_connect_names_host_and_port(target: bytes, port: int):
    """[SS-08] Authority-form, and nothing else."""
    read = read_target(get(target, method=b"CONNECT"))
    assert (read.form, read.port) == ("authority", port)
    for bad in (b"b.test", b"/x", b"http://b.test:80/", b"u@b.test:1", b"b.test:0"):
        with pytest.raises(Refusal):
            read_target(get(bad, method=b"CONNECT"))


@given(path=st.text(VISIBLE, max_size=30))
def test_any_path_is_read_or_refused_and_a_plain_one_is_its_own_comparison(path: str):
    """No path is a surprise; what is plain has no dot segment and compares equal to its decoded self."""
    raw = b"/" + path.encode()
    try:
        read = read_target(get(raw))
    except Refusal:
        assert b"#" in raw
        return
    assert read.path == raw
    assert read.compared.startswith("/")
    segments = read.compared.split("/")
    assert "." not in segments
    assert ".." not in segments
    if read.plain:
        again = read_target(get(read.compared.encode()))
        assert again.compared == read.compared or "%" in read.compared


@given(target=st.text(VISIBLE, min_size=1, max_size=30), host=st.text(VISIBLE, max_size=20))
def test_any_target_and_host_give_a_target_or_a_refusal(target: str, host: str):
    """Whatever stands there, the outcome has a name; what is read as a host holds no decoy."""
    try:
        read = read_target(get(target.encode(), host=host.encode()))
    except Refusal:
        return
    assert not set(read.host) & set("@/\\?#,;[] ")
    assert 0 < read.port < 65536
