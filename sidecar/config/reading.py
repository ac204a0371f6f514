"""From the bytes of one YAML file to a tree whose every part knows its place.

Reads YAML 1.2 where 1.1 surprises: scalars keep their text, and the key decides what a text means, so `no`, `1e3`,
`0123` and `12:30` are what was written. No tags, no merge keys, no second document; duplicate keys are flaws; size,
depth and the number of values that aliases expand to are bounded. Builds no Python object but the tree.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import yaml

from sidecar.config.problems import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LARGEST = 10 * 1024 * 1024  # bytes of the file
DEEPEST = 32  # levels of nesting
MOST = 1_000_000  # values, aliases expanded

LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCE = re.compile(r"\$\{[^{}\r\n]*\}")
_SHIELD = {ord(c): 0xE000 + ord(c) for c in "{}[],:#"}
_UNSHIELD = {shielded: plain for plain, shielded in _SHIELD.items()}
_ODD_SPACE = re.compile("[\u00a0\u2000-\u200b\u202f\u205f\u3000]")
_NULLS = frozenset(["", "~", "null", "Null", "NULL"])
BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
WITHOUT_BOM = "save it as UTF-8 without BOM"

Step = str | int
Path = tuple[Step, ...]


class Spot(Protocol):
    """A place in the file, counted from 0: a parser's mark, or an `At`."""

    @property
    def line(self) -> int:
        """Lines before this one."""

    @property
    def column(self) -> int:
        """Characters before this one."""


class At(NamedTuple):
    """A place that no parser marked."""

    line: int
    column: int


class Scalar(NamedTuple):
    """A text as written, references unexpanded."""

    start: Spot
    end: Spot
    text: str
    plain: bool  # without quotes

    @property
    def null(self) -> bool:
        """Whether YAML 1.2 calls this nothing."""
        return self.plain and self.text in _NULLS


class Sequence(NamedTuple):
    """The entries of a list."""

    start: Spot
    end: Spot
    items: list[Any]


class Mapping(NamedTuple):
    """Keys in the order of the file, each with its own place."""

    start: Spot
    end: Spot
    keys: dict[str, Scalar]
    entries: dict[str, Any]


Node = Scalar | Sequence | Mapping


class Flaw(NamedTuple):
    """Something refused that does not keep us from reading on. `dropped` is a value that is not in the tree."""

    path: Path
    spot: Spot
    message: str
    hint: str = ""
    dropped: Any = None
    width: int = 1


class UnreadableError(Exception):
    """The file cannot be read as one YAML document."""

    def __init__(self, spot: Spot, message: str, hint: str = "") -> None:
        super().__init__(spot, message, hint)
        self.spot = spot
        self.message = message
        self.hint = hint


def decode(data: bytes) -> str:
    """Return the file's text; raise `UnreadableError` for what is not plain UTF-8 of a sensible size."""
    if len(data) > LARGEST:
        raise UnreadableError(At(0, 0), "the file is larger than 10 MiB", "is this the right file?")
    if data.startswith(BOMS):
        raise UnreadableError(At(0, 0), "the file starts with a byte order mark", WITHOUT_BOM)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        raise UnreadableError(_spot(before), "the file is not UTF-8 here", "save it as UTF-8") from None
    bad = _UNPRINTABLE.search(text)
    if bad:
        message = f"control character U+{ord(bad[0]):04X} is not allowed"
        raise UnreadableError(_spot(text[: bad.start()]), message, "remove it, or write it as an escape in quotes")
    return text


def _spot(before: str) -> Spot:
    lines = LINE_BREAK.split(before)
    return At(len(lines) - 1, len(lines[-1]))


def read(text: str) -> tuple[Node, list[Flaw]]:
    """Return the document's tree and its flaws; raise `UnreadableError` where there is no tree."""
    composer = _Composer(text)
    try:
        return composer.document(), composer.flaws
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, text) from None


def _syntax(error: yaml.MarkedYAMLError, text: str) -> UnreadableError:
    mark = error.problem_mark or error.context_mark
    spot = At(mark.line, mark.column) if mark else At(0, 0)
    lines = LINE_BREAK.split(text)
    line = lines[min(spot.line, len(lines) - 1)]
    hint = _character_hint(line, spot.column)
    if not hint and error.context_mark and error.context_mark.line != spot.line:
        hint = f"it began at line {error.context_mark.line + 1}: look there for a missing quote, bracket or space"
        if isinstance(error, yaml.parser.ParserError) and not line[: spot.column].strip() and line.strip():
            hint += "; what belongs together begins in the same column"
    elif not hint and "${" in line:
        hint = "is every ${…} of this line closed, inside its quotes?"
    hint = hint or _quotes_hint(line[max(0, spot.column - 1) : spot.column], line[spot.column : spot.column + 1])
    return UnreadableError(spot, f"not valid YAML: {error.problem or 'cannot be read'}", hint)


def _character_hint(line: str, column: int) -> str:
    """Say which character of the line cannot stand there."""
    indent, here = line[: len(line) - len(line.lstrip())], line[column : column + 1]
    odd = odd_space(line)
    if "\t" in indent or here == "\t":
        return "indent with spaces: YAML allows no tabs there"
    if odd:
        return odd
    if line[column - 1 : column] == "*" or here in {"@", "`", "%"}:
        return "put quotes around a text that begins with *, @, ` or %"
    return ""


def odd_space(text: str) -> str:
    """Say which white space of the text is none to YAML, or nothing."""
    odd = _ODD_SPACE.search(text)
    return (
        f"character {odd.start() + 1} is a space, but no plain one (U+{ord(odd[0]):04X}): type it anew" if odd else ""
    )


def _quotes_hint(before: str, here: str) -> str:
    if here == ":" and before:
        return "put quotes around a text that holds a colon and a space; inside {…} a comma stands before the next key"
    if here in {"[", "]", "{", "}"} and before.strip():
        return "inside […] and {…}, put quotes around a text that holds brackets or braces"
    return ""


class _Composer:
    """Events to nodes, one level of recursion per level of nesting."""

    def __init__(self, text: str) -> None:
        # Inside […] and {…} a bare ${NAME} would end at its brace: its signs are swapped, one for one, while parsing.
        shielding = "${" in text and not any(chr(sign) in text for sign in _UNSHIELD)
        self._restore = _UNSHIELD if shielding else {}
        shielded = _REFERENCE.sub(lambda found: found[0].translate(_SHIELD), text) if shielding else text
        self._events: Iterator[Any] = yaml.parse(shielded, Loader=LOADER)
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._count = 0
        self.flaws: list[Flaw] = []

    def document(self) -> Node:
        next(self._events)  # the stream's start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            raise UnreadableError(At(0, 0), "the file is empty", "the smallest configuration has providers and routes")
        root = self._node(next(self._events), ())
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise UnreadableError(_start(event), "a second document begins here", "keep one document in the file")
        return root

    def _node(self, event: Any, path: Path) -> Node:
        if len(path) > DEEPEST:
            raise UnreadableError(_start(event), f"nested more than {DEEPEST} levels deep")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self._count
        self._add(event, 1)
        if event.tag and event.tag != "!":
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.flaws.append(Flaw(path, _start(event), f"the tag {quoted(tag)} is not allowed", "remove the tag"))
        node = self._content(event, path)
        if event.anchor:
            self._anchors[event.anchor] = (node, self._count - before)
        return node

    def _add(self, event: Any, count: int) -> None:
        self._count += count
        if self._count > MOST:
            raise UnreadableError(_start(event), f"more than {MOST} values, aliases expanded")

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self._anchors:
            raise UnreadableError(_start(event), f"the alias {quoted('*' + event.anchor)} names nothing complete")
        node, size = self._anchors[event.anchor]
        self._add(event, size)
        return node

    def _content(self, event: Any, path: Path) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            text = event.value.translate(self._restore) if self._restore else event.value
            return Scalar(_start(event), _end(event), text, not event.style)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(event, path)
        return self._mapping(event, path)

    def _sequence(self, start: Any, path: Path) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return Sequence(_start(start), _end(event), items)

    def _mapping(self, start: Any, path: Path) -> Mapping:
        keys: dict[str, Scalar] = {}
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, (*path, "?"))
            if not isinstance(key, Scalar):
                raise UnreadableError(
                    _start(event), "a key is a text", "inside {…} or […], quote a text that has braces"
                )
            value = self._node(next(self._events), (*path, key.text))
            if self._fits(key, value, keys, path):
                keys[key.text], entries[key.text] = key, value
        return Mapping(_start(start), _end(event), keys, entries)

    def _fits(self, key: Scalar, value: Node, keys: dict[str, Scalar], path: Path) -> bool:
        message, hint = "", ""
        if key.text == "<<" and key.plain:
            message, hint = "merge keys are not supported", "write the keys out"
        elif key.text in keys:
            first = keys[key.text].start
            message = f"the key stands here a second time, first at {first.line + 1}:{first.column + 1}"
            hint = "keep one of the two"
        if message:
            width = key.end.column - key.start.column if key.end.line == key.start.line else 1
            self.flaws.append(Flaw((*path, key.text), key.start, message, hint, value, width))
        return not message


def _start(event: Any) -> Spot:
    mark: Spot = event.start_mark
    return mark


def _end(event: Any) -> Spot:
    mark: Spot = event.end_mark
    return mark
