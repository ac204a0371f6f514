"""Which header lines speak to the corridor, and what was once understood of them.

Most lines of a message mean nothing to a proxy: they only go on. The few that do (Host, Connection, the session's
cookie, …) are the same from request to request, whatever trace id or date stands beside them. So what is derived from
them is kept under their exact bytes, in a memo that messages with equal speaking lines share; and a line that was found
mute is known by its bytes when it comes again. Pure but for these memories, which are bounded.
"""

from __future__ import annotations

from itertools import filterfalse
from typing import Any, Final, Generic, TypeVar

from sidecar.message import Headers, as_some_read_it

_MOST_REMEMBERED: Final = 1024  # in one generation
MOST_DERIVED = 4096  # in all memos of one generation: what routes derived, of which each memo may hold many
_LONGEST_REMEMBERED: Final = 4 * 1024  # bytes
_MOST_NAMES: Final = 1024  # spellings of header names: callers choose them, so there is an end
_LONGEST_NAME: Final = 128  # bytes
_MOST_KNOWN: Final = 1024  # lines
_LONGEST_KNOWN: Final = 1024  # bytes
_MOST_VALUES: Final = 64  # mute lines of one name: where there are more it is an id or a date, not worth remembering

_MUTE: Final = 0
_VARIES: Final = 1
_SPEAKS: Final = 2
_COOKIE: Final = 3
_LENGTH: Final = 4
V = TypeVar("V")


class Memory(Generic[V]):
    """Values by bytes. Two generations: what is found in the old one moves to the young; when that is full, it ages."""

    __slots__ = ("_old", "_weight", "young")

    def __init__(self) -> None:
        self.young: dict[bytes, V] = {}
        self._old: dict[bytes, V] = {}
        self._weight = 0

    def get(self, key: bytes) -> V | None:
        """Return the value of `key`, if it is remembered."""
        value = self.young.get(key)
        if value is None and self._old:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: bytes, value: V) -> None:
        """Remember a value, unless its key is very long."""
        if len(key) <= _LONGEST_REMEMBERED:
            if len(self.young) >= _MOST_REMEMBERED:
                self._age()
            self.young[key] = value

    def weigh(self, weight: int) -> None:
        """Take note that the young values have become heavier by so much; when that is too much they age as well."""
        self._weight += weight
        if self._weight > MOST_DERIVED:
            self._age()

    def _age(self) -> None:
        self._old, self.young, self._weight = self.young, {}, 0


class Hearing:
    """The ear for requests, or for responses, of one configuration.

    `names` are the lower-case names that speak. A cookie line (`cookie`, `set-cookie`) speaks where it names one of
    `cookies`. A name that some readers take for one of `names` (X_Session.Id), as CGI does, speaks too.
    """

    __slots__ = (
        "_alike", "_cookies", "_is_mute", "_is_speaking", "_kinds", "_memos", "_mute", "_names", "_speaking", "_values",
    )  # fmt: skip

    def __init__(self, names: frozenset[bytes], cookies: frozenset[bytes]) -> None:
        self._names = names
        self._alike = frozenset(map(as_some_read_it, names))
        self._cookies = tuple(cookies)
        self._kinds: dict[bytes, int] = {}
        self._values: dict[bytes, int] = {}  # how many mute lines of a name are known
        self._mute: set[bytes] = set()
        self._speaking: set[bytes] = set()
        self._is_mute = self._mute.__contains__
        self._is_speaking = self._speaking.__contains__
        self._memos: Memory[dict[object, Any]] = Memory()

    def hear(self, section: bytes, lines: list[bytes], minor: int) -> Headers:
        """Return the headers of a message of version HTTP/1.`minor`, whose section these lines make."""
        speaking = [*filterfalse(self._is_mute, lines)]
        lengths: list[bytes] = []
        for line in [*filterfalse(self._is_speaking, speaking)]:
            name = line[: line.find(b":")]
            kind = self._kinds.get(name)
            if kind is None:
                kind = self._kind(name)
            if kind == _SPEAKS or (kind == _COOKIE and self._names_ours(line)):
                _know(self._speaking, line)
                continue
            speaking.remove(line)
            if kind == _LENGTH:
                lengths.append(line)
            elif kind == _MUTE:
                self._found_mute(name, line)
        # That there is a length is told apart, not which.
        speaking.append((b"L1" if lengths else b"1") if minor else (b"L0" if lengths else b"0"))
        key = b"\n".join(speaking)
        memo = self._memos.young.get(key)
        if memo is None:
            memo = self._recall(key)
        return Headers(section, lengths, memo)

    def remember(self, memo: dict[object, Any], name: object, value: object) -> None:
        """Put what a route derived into a memo. Callers choose lines and route: so both together have a bound."""
        if name not in memo:
            self._memos.weigh(1)
        memo[name] = value

    def _recall(self, key: bytes) -> dict[object, Any]:
        memo = self._memos.get(key)
        if memo is None:
            memo = {}
            self._memos.put(key, memo)
        self._memos.weigh(len(memo))
        return memo

    def _found_mute(self, name: bytes, line: bytes) -> None:
        if len(name) > _LONGEST_NAME:
            return
        _know(self._mute, line)
        count = self._values[name] = self._values.get(name, 0) + 1
        if count > _MOST_VALUES and name in self._kinds:
            self._kinds[name] = _VARIES
        if len(self._values) > _MOST_NAMES:
            self._values.clear()

    def _kind(self, name: bytes) -> int:
        lower = name.lower()
        if lower == b"content-length":
            kind = _LENGTH
        elif lower in (b"cookie", b"set-cookie") and lower not in self._names:
            kind = _COOKIE
        else:
            kind = _SPEAKS if lower in self._names or as_some_read_it(lower) in self._alike else _MUTE
        if len(self._kinds) < _MOST_NAMES and len(name) <= _LONGEST_NAME:
            self._kinds[name] = kind
        return kind

    def _names_ours(self, line: bytes) -> bool:
        for name in self._cookies:  # noqa: SIM110 - a generator costs more than what it looks for
            if name in line:
                return True
        return False


def _know(known: set[bytes], line: bytes) -> None:
    """Remember a line as one of its kind. Where there is no room, begin anew: what comes again is soon back."""
    if len(line) <= _LONGEST_KNOWN:
        if len(known) >= _MOST_KNOWN:
            known.clear()
        known.add(line)
