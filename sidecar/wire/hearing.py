"""Which header lines speak to the corridor, and what was once understood of them.

Most lines of a message mean nothing to a proxy: they only go on. The few that do (Host, Connection, the session's
cookie, …) are the same from request to request, whatever trace id or date stands beside them. So what is derived from
them is kept under their exact bytes, in a memo that messages with equal speaking lines share; and a line that was found
mute is known by its bytes when it comes again. Pure but for these memories, which are bounded.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from sidecar.message import Headers, as_some_read_it

_MOST_REMEMBERED = 1024  # in one generation
_LONGEST_REMEMBERED = 4 * 1024  # bytes
_MOST_NAMES = 1024  # spellings of header names: callers choose them, so there is an end
_MOST_MUTE = 1024  # lines
_LONGEST_MUTE = 256  # bytes

_MUTE, _SPEAKS, _COOKIE, _LENGTH = range(4)
V = TypeVar("V")


class Memory(Generic[V]):
    """Values by bytes. Two generations: what is found in the old one moves to the young; when that is full, it ages."""

    __slots__ = ("_old", "_young")

    def __init__(self) -> None:
        self._young: dict[bytes, V] = {}
        self._old: dict[bytes, V] = {}

    def get(self, key: bytes) -> V | None:
        """Return the value of `key`, if it is remembered."""
        value = self._young.get(key)
        if value is None and self._old:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: bytes, value: V) -> None:
        """Remember a value, unless its key is very long."""
        if len(key) <= _LONGEST_REMEMBERED:
            if len(self._young) >= _MOST_REMEMBERED:
                self._old, self._young = self._young, {}
            self._young[key] = value


class Hearing:
    """The ear for requests, or for responses, of one configuration.

    `names` are the lower-case names that speak. A cookie line (`cookie`, `set-cookie`) speaks where it names one of
    `cookies`. A name that some readers take for one of `names` (X_Session.Id), as CGI does, speaks too.
    """

    __slots__ = ("_cookies", "_kinds", "_memos", "_mute", "_names")

    def __init__(self, names: frozenset[bytes], cookies: frozenset[bytes]) -> None:
        self._names = names
        self._cookies = tuple(cookies)
        self._kinds: dict[bytes, int] = {}
        self._memos: Memory[dict[object, Any]] = Memory()
        self._mute: set[bytes] = {b""}  # what stands around the lines of a section says nothing either

    def hear(self, section: bytes, lines: list[bytes], minor: int) -> Headers:
        """Return the headers of a message of version HTTP/1.`minor`. `lines` are the section's pieces between CRLFs."""
        mute = self._mute
        kinds = self._kinds
        speaking = [b"1" if minor else b"0"]
        lengths: list[bytes] = []
        for line in [line for line in lines if line not in mute]:
            name = line[: line.find(b":")]
            kind = kinds.get(name)
            if kind is None:
                kind = self._kind(name)
            if kind == _SPEAKS or (kind == _COOKIE and self._names_ours(line)):
                speaking.append(line)
            elif kind == _LENGTH:
                lengths.append(line)
                speaking[0] = b"L" if minor else b"l"  # that there is a length is told apart, not which
            elif len(line) <= _LONGEST_MUTE:
                self._found_mute(line)
        key = b"\n".join(speaking)
        memo = self._memos.get(key)
        if memo is None:
            memo = {}
            self._memos.put(key, memo)
        return Headers(section, lengths, memo)

    def _found_mute(self, line: bytes) -> None:
        mute = self._mute
        if len(mute) >= _MOST_MUTE:  # mostly of values that never come twice; those that do are soon found again
            mute.clear()
            mute.add(b"")
        mute.add(line)

    def _kind(self, name: bytes) -> int:
        lower = name.lower()
        if lower == b"content-length":
            kind = _LENGTH
        elif lower in (b"cookie", b"set-cookie") and lower not in self._names:
            kind = _COOKIE
        else:
            kind = _SPEAKS if lower in self._names or as_some_read_it(lower) in self._names else _MUTE
        if len(self._kinds) < _MOST_NAMES:
            self._kinds[name] = kind
        return kind

    def _names_ours(self, line: bytes) -> bool:
        for name in self._cookies:  # noqa: SIM110 - a generator costs more than what it looks for
            if name in line:
                return True
        return False
