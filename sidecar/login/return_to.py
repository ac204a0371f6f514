"""Where a browser may land after a sign-in or sign-out: an exact origin, a path by whole segments, nothing else.

Pure. What two readers could take for two different places is refused, not repaired: open redirects live from the
difference between what was checked and what the browser made of it (RFC 9700 section 4.11). The answer is always an
absolute URL, so that nothing is left to be resolved.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 1500  # characters: it travels in a cookie
_PORTS = {"http": 80, "https": 443}
# RFC 3986 to the letter: no backslash, no space or control, nothing outside ASCII, no userinfo, whole percent-triplets.
_CHARACTER = r"[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}"
_URL = re.compile(
    r"(?P<scheme>[A-Za-z]+)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    rf"(?P<path>(?:/(?:{_CHARACTER})*)*)(?P<rest>(?:\?(?:{_CHARACTER}|[/?\[\]])*)?(?:\#(?:{_CHARACTER}|[/?!\[\]])*)?)"
)
_CLOAKED = re.compile(r"%(?:2[EeFf]|5[Cc]|[01][0-9A-Fa-f]|7[Ff])")  # a dot, a slash, a backslash, a control


class Place(NamedTuple):
    """A URL taken apart. `rest` is query and fragment, with their marks."""

    origin: str
    path: str
    rest: str


def landing(asked: str | None, allowed: Iterable[str], own_origin: str) -> str | None:
    """Return the absolute URL to send the browser to; None where what is asked for is not allowed.

    `asked` is an absolute URL or a path on `own_origin`; None asks for the first of `allowed`, which are absolute URLs
    as the configuration holds them.
    """
    places = tuple(allowed)
    if asked is None:
        return places[0]
    place = read(asked, own_origin)
    if place is None or not any(_below(place, one) for one in places):
        return None
    return place.origin + place.path + place.rest


def read(text: str, own_origin: str) -> Place | None:
    """Take an absolute URL, or a path on `own_origin`, apart; None for what could be read in two ways."""
    if len(text) > LONGEST:
        return None
    found = _URL.fullmatch(own_origin + text if text.startswith("/") else text)
    if found is None or found["scheme"].lower() not in _PORTS:
        return None
    path = found["path"] or "/"
    if _CLOAKED.search(path) or not all(_is_plain(segment) for segment in path[1:].split("/")[:-1]):
        return None
    if path.rpartition("/")[2].partition(";")[0] in (".", ".."):
        return None
    return Place(_origin(found["scheme"].lower(), found["host"].lower(), found["port"]), path, found["rest"])


def origin_of(url: str) -> str:
    """Return the origin of one of the allowed URLs, as browsers write it in Origin."""
    place = read(url, "")
    return place.origin if place else ""


def _is_plain(segment: str) -> bool:
    return segment.partition(";")[0] not in ("", ".", "..")


def _origin(scheme: str, host: str, port: str | None) -> str:
    return f"{scheme}://{host}" if port is None or int(port) == _PORTS[scheme] else f"{scheme}://{host}:{int(port)}"


def _below(place: Place, allowed: str) -> bool:
    above = read(allowed, "")
    if above is None or place.origin != above.origin:
        return False
    prefix = above.path.rstrip("/")
    return place.path == prefix or place.path.startswith(prefix + "/")
