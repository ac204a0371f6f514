"""Which texts betray a secret: how it may be spelled there, and a search for many secrets at once.

Pure. A secret is looked for by the first twelve characters of each spelling, and of its last part where it is long, so
that a piece of it is found as well as the whole: as it is, percent-encoded, as a form or JSON writes it, in
quoted-printable, hexadecimal, and base64 at each of three places. Values below eight characters are no secrets that
can be looked for; `unsearchable` says so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import quopri
import urllib.parse
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SHORTEST = 8  # bytes of a spelling; below it chance would write it
PIECE = 12  # bytes
DIFFERENT = 3  # characters; a body of one letter is no token of one letter
STEP = PIECE - SHORTEST + 1
LONG = 3 * PIECE  # from here on the end of a secret is looked for as well


class Hit(NamedTuple):
    """One secret in one place: what kind of secret (never its text), how it was spelled, the line, from 1."""

    place: str
    line: int
    kind: str
    spelling: str


def unsearchable(secret: str) -> bool:
    """Say whether a secret is too short to be told from other text, or the same over and over, as the longest tokens."""
    return len(secret.encode()) < SHORTEST or len(set(secret)) < DIFFERENT


def spellings(secret: str) -> Iterator[tuple[str, bytes]]:
    """Yield how a secret's beginning may look, and its end where it is long; each at most `PIECE` bytes."""
    yield from _spellings(secret)
    if len(secret) >= LONG:
        yield "its end", secret[-PIECE:].encode()
    if secret.startswith("eyJ") and len(signature := secret.rpartition(".")[2]) >= PIECE:
        yield "a JWT's signature", signature[:PIECE].encode()


def _spellings(secret: str) -> Iterator[tuple[str, bytes]]:
    raw, form = secret.encode(), urllib.parse.quote_plus(secret)
    whole = {
        "as it is": raw,
        "percent-encoded": urllib.parse.quote(secret, safe="").encode(),
        "form-encoded": form.encode(),
        "JSON": json.dumps(secret)[1:-1].encode(),
        "quoted-printable": quopri.encodestring(raw[:PIECE]),
        "hexadecimal": raw.hex().encode(),
    }
    for at in range(3):
        whole[f"base64 from byte {at}"] = _base64(raw, at)
        whole[f"base64url from byte {at}"] = _base64(raw, at).translate(bytes.maketrans(b"+/", b"-_"))
        whole[f"base64 of the form-encoded from byte {at}"] = _base64(form.encode(), at)
    known: set[bytes] = set()
    for name, spelled in whole.items():
        piece = spelled[:PIECE]
        if len(piece) >= SHORTEST and piece not in known:
            known.add(piece)
            yield name, piece


def _base64(raw: bytes, at: int) -> bytes:
    """Return the characters of base64 that say nothing but `raw`, where it begins `at` bytes into a group of three."""
    encoded = base64.b64encode(b"\0" * at + raw)
    return encoded[-(-8 * at // 6) : 8 * (at + len(raw)) // 6]


class Finder:
    """Looks for all secrets in one pass over a text.

    A piece of twelve bytes holds five windows of eight, one of which stands at a multiple of five wherever the piece is:
    only those places of a text are looked at. The few shorter pieces are looked for one by one.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        """Take kinds by secret."""
        self._windows: dict[bytes, dict[tuple[int, bytes, str, str], None]] = {}
        self._short: dict[tuple[bytes, str, str], None] = {}
        for secret, kind in secrets.items():
            for name, piece in spellings(secret):
                self._take(piece, kind, name)

    def _take(self, piece: bytes, kind: str, name: str) -> None:
        if len(piece) < PIECE:
            self._short[piece, kind, name] = None
            return
        for at in range(STEP):
            self._windows.setdefault(piece[at : at + SHORTEST], {})[at, piece, kind, name] = None

    def hits(self, place: str, text: bytes) -> list[Hit]:
        """Return what a text betrays: each kind and spelling once a line."""
        return list(dict.fromkeys(self._hits(place, text)))

    def _hits(self, place: str, text: bytes) -> Iterator[Hit]:
        windows, line = self._windows, _Lines(text)
        for at in range(0, len(text) - SHORTEST + 1, STEP):
            if (window := text[at : at + SHORTEST]) in windows:
                for before, piece, kind, name in windows[window]:
                    if at >= before and text.startswith(piece, at - before):
                        yield Hit(place, line.of(at - before), kind, name)
        for piece, kind, name in self._short:
            at = text.find(piece)
            while at >= 0:
                yield Hit(place, line.of(at), kind, name)
                at = text.find(piece, at + len(piece))


class _Lines:
    """Numbers of lines in a text, from 1, without counting all of it for each."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at, self._line = 0, 1

    def of(self, at: int) -> int:
        if at < self._at:
            self._at, self._line = 0, 1
        self._line += self._text.count(b"\n", self._at, at)
        self._at = at
        return self._line


def places(finder: Finder, texts: Iterable[tuple[str, bytes]]) -> list[Hit]:
    """Return the hits of several texts by name; of equal ones, those of the first."""
    seen: set[bytes] = set()
    hits: list[Hit] = []
    for name, text in texts:
        digest = hashlib.sha256(text).digest()
        if digest not in seen:
            seen.add(digest)
            hits += finder.hits(name, text)
    return hits
