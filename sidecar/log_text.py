"""What a log line holds and how it is written: from an event to bytes. Pure but for the clock of `stamp`.

Three defences keep secrets out: `Secret` hides itself, members with telling names are blanked, and text of the known
shapes of credentials is blanked wherever it stands. Of an exception only the type and the places are told, since its
text may quote a URL or a header. Characters that could end a line, drive a terminal or turn the reading direction are
escaped.
"""

from __future__ import annotations

import re
import sys
import time
import traceback
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from sidecar.errors import REFUSALS

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from types import TracebackType

LONGEST = 4096  # characters of one text
_NAMES = frozenset(
    {
        "assertion", "authorization", "code", "cookie", "credential", "credentials", "dpop", "key", "nonce", "passwd",
        "password", "proxy_authorization", "secret", "session", "session_id", "set_cookie", "sid", "token",
    }
)  # fmt: skip
_ENDINGS = ("_assertion", "_cookie", "_key", "_password", "_secret", "_token", "_verifier")
_BLANK = "[redacted]"
_MEMBERS = (
    "access_token|refresh_token|id_token|subject_token|actor_token|client_secret|client_assertion|assertion"
    "|code_verifier|device_code|code|password|logout_token|session_id|sidecar_session"
)
_SHAPES = (  # what a text must hold for the shape to be in it, the shape, what goes in its place
    ("=", re.compile(rf"\b({_MEMBERS})(=)[^&\s\"',;]+", re.IGNORECASE), rf"\1\2{_BLANK}"),
    ("eyJ", re.compile(r"\beyJ[\w-]{6,}\.[\w-]*(\.[\w-]*)*"), _BLANK),
    ('"', re.compile(rf"(\"(?:{_MEMBERS})\"\s*[:,]\s*b?[\"'])[^\"']*", re.IGNORECASE), rf"\1{_BLANK}"),
    ("'", re.compile(rf"('(?:{_MEMBERS})'\s*[:,]\s*b?[\"'])[^\"']*", re.IGNORECASE), rf"\1{_BLANK}"),
    ("sidecar-k1.", re.compile(r"\bsidecar-k1\.[\w-]+"), _BLANK),
    ("@", re.compile(r"(\w://)[^/@\s]*@"), rf"\1{_BLANK}@"),
)
_AFTER_A_SPACE = re.compile(r"\b(Bearer|DPoP|Basic|Negotiate|Token)(\s+)[\w\-.~+/]{6,}=*", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def stamp(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the time in UTC (RFC 3339)."""
    event["time"] = moment(time.time())
    return event


def moment(at: float) -> str:
    """Return a time, in seconds since the epoch, in UTC (RFC 3339)."""
    return f"{_second(int(at))}.{int(at % 1 * 1000):03}Z"


@lru_cache(maxsize=8)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()[:19]


def tell_exception(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace `exc_info` by the exception's type and the places that it went through; its text stays out."""
    given = event.pop("exc_info", None)
    found = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else None
    error = found or (sys.exc_info()[1] if given else None)
    if error is not None:
        event["exception"] = type(error).__qualname__
        event["trace"] = _places(error.__traceback__)
    return event


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Blank members with telling names, and credentials of known shapes in every text."""
    return {str(name): _member(str(name), value) for name, value in event.items()}


def _member(name: str, value: Any) -> Any:
    plain = name.lower().replace("-", "_")
    telling = plain in _NAMES or plain.endswith(_ENDINGS)
    of_a_refusal = plain == "code" and isinstance(value, str) and value in REFUSALS
    return _BLANK if telling and not of_a_refusal else _clean(value)


def scrub(text: str) -> str:
    """Return `text` without credentials of known shapes: the last line of defence, not the first."""
    if " " in text or not text.isprintable():  # of white space, only the space is printable
        text = _AFTER_A_SPACE.sub(rf"\1\2{_BLANK}", text)
    for mark, shape, replacement in _SHAPES:
        if mark in text:
            text = shape.sub(replacement, text)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return scrub(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {str(name): _member(str(name), item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(item) for item in value]
    return f"<{type(value).__name__}>"


def _places(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace, limit=-12)
    return [f"{'/'.join(frame.filename.rsplit('/', 2)[-2:])}:{frame.lineno} {frame.name}" for frame in frames]


def render_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
    """Return one line of ASCII JSON: time, level and event first."""
    first = {"time": event.pop("time", None), "level": event.pop("level", None), "event": event.pop("event", None)}
    try:
        text = orjson.dumps({**first, **event}).decode()
    except orjson.JSONEncodeError:
        text = orjson.dumps(_encodable({**first, **event})).decode()
    return (text if text.isascii() else _UNPRINTABLE.sub(_escape, text)).replace("\x7f", "\\u007f").encode() + b"\n"


class Console:
    """Renders lines for people: time of day, level, event, `name=value`."""

    _COLOURS: ClassVar[dict[str, str]] = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31"}

    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
        """Return one line of text, coloured where that was asked for."""
        at, level, what = event.pop("time", "")[11:23], event.pop("level", "info"), event.pop("event", "")
        shown = f"\x1b[{self._COLOURS.get(level, '0')}m{level:7}\x1b[0m" if self._colour else f"{level:7}"
        pairs = "".join(f"  {_safe(name)}={_safe(_shown(value))}" for name, value in event.items())
        return f"{at} {shown} {_safe(str(what))}{pairs}\n".encode("utf-8", "backslashreplace")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(_encodable(value)).decode()


def _safe(text: str) -> str:
    return _UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    encoded = found.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{encoded[i : i + 2].hex()}" for i in range(0, len(encoded), 2))


def _encodable(value: Any) -> Any:
    """Return `value` with the lone surrogates, which no JSON can hold, written out."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(name): _encodable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    too_large = isinstance(value, int) and abs(value) >= 2**63
    return str(value) if too_large else value
