"""Tokens in less room: six bits for a character of base64url (RFC 4648 section 5), which is what tokens are made of.

Pure. A JWT (RFC 7519) or any token of that alphabet, dots included, takes three quarters of its length; another one is
kept as it is. What comes back is always what was given.
"""

from __future__ import annotations

import binascii
import struct

_MOST_DOTS = 8
_LONGEST = 0xFFFF
_PLAIN = b"\0"
_URL, _STANDARD = b"-_", b"+/"
_TO_STANDARD = bytes.maketrans(_URL + b"+/=", _STANDARD + b"!!!")  # the others of base64 are none of base64url
_TO_URL = bytes.maketrans(_STANDARD, _URL)
_PLACES = [struct.Struct(f"<{count}H") for count in range(_MOST_DOTS + 2)]


def tighten(text: bytes) -> bytes:
    """Return `text` in less room, where that is possible."""
    bare = text.replace(b".", b"")
    dots = len(text) - len(bare)
    if dots > _MOST_DOTS or len(text) > _LONGEST:
        return _PLAIN + text
    whole = bare + b"A" * (-len(bare) % 4)
    try:
        packed = binascii.a2b_base64(whole.translate(_TO_STANDARD), strict_mode=True)
    except binascii.Error:
        return _PLAIN + text
    places, at = [], -1
    for _ in range(dots):
        at = text.index(b".", at + 1)
        places.append(at)
    return bytes((dots + 1,)) + _PLACES[dots + 1].pack(len(bare), *places) + packed


def loosen(tight: bytes) -> bytes:
    """Return what `tighten` was given."""
    count = tight[0]
    if not count:
        return tight[1:]
    length, *places = _PLACES[count].unpack_from(tight, 1)
    text = binascii.b2a_base64(tight[1 + 2 * count :], newline=False).translate(_TO_URL)[:length]
    if not places:
        return text
    parts, begun = [], 0
    for before, place in enumerate(places):
        parts.append(text[begun : place - before])
        begun = place - before
    return b".".join((*parts, text[begun:]))
