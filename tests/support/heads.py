"""Heads for tests of decisions: raw bytes in, what the wire makes of them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.headers import RequestRules, ResponseRules
from sidecar.settings import Limits
from sidecar.wire.head import parse_request, parse_response
from sidecar.wire.hearing import Hearing

if TYPE_CHECKING:
    from sidecar.message import RequestHead, ResponseHead

CARRIERS = frozenset([b"x-session-id"])
COOKIES = frozenset([b"sidecar_session"])
TOKEN_RULES = RequestRules(CARRIERS | {b"authorization", b"dpop"}, COOKIES)
PLAIN_RULES = RequestRules(CARRIERS, COOKIES)
RESPONSE_RULES = ResponseRules(CARRIERS, COOKIES)


def request_head(raw: bytes, limits: Limits | None = None) -> RequestHead:
    """Read a request head as the wire does; raise `Refusal`."""
    return parse_request(raw, limits or Limits(), Hearing(TOKEN_RULES.speaking, COOKIES))


def response_head(raw: bytes) -> ResponseHead:
    """Read a response head as the wire does; raise `InvalidResponseError`."""
    return parse_response(raw, RESPONSE_RULES.hearing)


def get(target: bytes = b"/", *lines: bytes, host: bytes | None = b"a.test", method: bytes = b"GET") -> RequestHead:
    """Return the head of a request for `target`."""
    hosts = [b"Host: " + host] if host is not None else []
    return request_head(b"\r\n".join([method + b" " + target + b" HTTP/1.1", *hosts, *lines, b"", b""]))
