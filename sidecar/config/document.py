"""A parsed file as the rest of `config` sees it: plain data, and for every path its place and its line, masked.

Knows where secrets stand by walking the tree along the models of `schema`. What stands under an unknown key may be a
misspelt secret, so it is hidden as well. A scalar of references alone is shown: it names the secret, it is not it.
"""

from __future__ import annotations

import re
from functools import cache, cached_property
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from sidecar.config import schema
from sidecar.config.kinds import BROKEN, Reads
from sidecar.config.problems import LONGEST, Misfit, Problem, quoted
from sidecar.config.reading import LINE_BREAK, Flaw, Mapping, Node, Path, Scalar, Sequence, Spot, UnreadableError
from sidecar.config.references import harmless
from sidecar.model import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SIMPLE = re.compile(r"[A-Za-z0-9_-]+\Z")
_USERINFO = re.compile(r"(?<=//)[^/@\s]*@")
_SECRETISH = re.compile(
    r"""((?:secret|token|key|keys|basic|password|passwd|url|params)["']?\s*:(?=\s|$)\s*)(.+)""", re.IGNORECASE
)
_OPENS_SECRET = re.compile(
    r"""(?:secret|token|key|keys|basic|password|passwd|url|params)["']?\s*:\s*[|>\[{]?[+-]?\s*\Z""", re.IGNORECASE
)
MASK = "***"


def spelled(path: Path) -> str:
    """Return `routes[1].as`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if _SIMPLE.match(step) else quoted(step))
    return text


class Lines:
    """The file's lines as they may be shown."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self._lines = LINE_BREAK.split(text)
        self._hidden: dict[int, list[tuple[int, int]]] = {}

    def hide(self, start: Spot, end: Spot) -> None:
        """Never show what stands between the two places."""
        for line in range(start.line, min(end.line + 1, len(self._lines))):
            first = start.column if line == start.line else 0
            last = end.column if line == end.line else len(self._lines[line])
            self._hidden.setdefault(line, []).append((first, last))

    def hide_by_name(self) -> None:
        """Hide what stands after keys that look like a secret's: the best there is without a tree."""
        for number, line in enumerate(self._lines):
            found = _SECRETISH.search(line)
            if found:
                self._hidden.setdefault(number, []).append(found.span(2))
            elif number and (number - 1 in self._hidden or _OPENS_SECRET.search(self._lines[number - 1])):
                indent = len(line) - len(line.lstrip())
                above = self._lines[number - 1]
                if indent > len(above) - len(above.lstrip()) or number - 1 not in self._hidden:
                    self._hidden[number] = [(indent, len(line))]

    def problem(self, spot: Spot, width: int, key: str, message: str, hint: str = "") -> Problem:
        """Return a problem with its line."""
        line = self._lines[spot.line] if spot.line < len(self._lines) else ""
        source, caret = _masked(line, sorted(self._hidden.get(spot.line, ())), spot.column)
        return Problem(self.file, spot.line + 1, spot.column + 1, key, message, hint, source, caret, width)


def _masked(line: str, hidden: list[tuple[int, int]], column: int) -> tuple[str, int]:
    """Return the line with its hidden parts replaced, and where the column is now."""
    shown, caret, at = "", column, 0
    spans = hidden + [found.span() for found in _USERINFO.finditer(line)]
    for first, last in sorted(spans):
        if last <= at or first >= last:
            continue
        shown += line[at : max(first, at)]
        mask = MASK + ("@" if line[first:last].endswith("@") else "")
        caret = len(shown) if first <= column < last else caret
        shown += mask
        at = last
        caret = len(shown) + column - last if column >= last else caret
    return (shown + line[at:]).replace("\t", " "), min(caret, len(shown + line[at:]))


class Document:
    """The tree, its data with references expanded, and the problems found so far."""

    def __init__(self, lines: Lines, root: Node, flaws: list[Flaw]) -> None:
        self._lines = lines
        self._root = root
        self._reported: set[Path] = set()
        self._nothings: list[Path] = []
        self.problems: list[Problem] = []
        for flaw in flaws:
            if flaw.dropped is not None:
                lines.hide(flaw.dropped.start, flaw.dropped.end)
        for flaw in flaws:
            self._add(flaw.spot, 1, flaw.path, flaw.message, flaw.hint)

    @cached_property
    def _hidden(self) -> frozenset[int]:
        """Identities of the scalars that are not shown; looked for once there is a problem to show."""
        nodes = list(_secrets(self._root, schema.File))
        for node in nodes:
            self._lines.hide(node.start, node.end)
        return frozenset(map(id, nodes))

    def data(self, expand: Callable[[str], str]) -> Any:
        """Return plain data. What cannot be had is reported and stands as `BROKEN`."""
        memo: dict[int, str | Misfit] = {}

        def convert(node: Node, path: Path) -> Any:
            if isinstance(node, Mapping):
                return {key: convert(entry, (*path, key)) for key, entry in node.entries.items()}
            if isinstance(node, Sequence):
                return [convert(item, (*path, index)) for index, item in enumerate(node.items)]
            return self._text(node, path, memo, expand) if "$" in node.text else self._plain(node, path)

        return convert(self._root, ())

    def _plain(self, node: Scalar, path: Path) -> Any:
        if node.null:
            self._nothings.append(path)
            return BROKEN
        return node.text

    def _text(self, node: Scalar, path: Path, memo: dict[int, str | Misfit], expand: Callable[[str], str]) -> Any:
        if id(node) not in memo:
            try:
                memo[id(node)] = expand(node.text)
            except Misfit as misfit:
                memo[id(node)] = misfit
                self.report(path, misfit.message, misfit.hint)
        text = memo[id(node)]
        if isinstance(text, Misfit):
            self._reported.add(path)
            return BROKEN
        return text

    def finish(self) -> None:
        """Report the keys without a value, but for those that are refused already."""
        for path in self._nothings:
            self.report(path, "expected a value, found nothing", "leave the key out to use its default")

    def report(self, path: Path, message: str, hint: str = "", *, key: bool = False, found: bool = False) -> None:
        """Add a problem at the value of `path`, or at its `key`; `found` appends what stands there, if it may be shown.

        A path that has a problem already gets no second one.
        """
        if isinstance(self.at(path[:-1]), Scalar):
            path = path[:-1]  # one text where a list could stand
        if path in self._reported:
            return
        self._reported.add(path)
        node = self.at(path, key=key)
        if found:
            message += self._found(self.at(path), path)
        whole = node.end.line == node.start.line and (isinstance(node, Scalar) or self._exists(path))
        width = node.end.column - node.start.column if whole else 1
        self._add(node.start, width, path, message, hint)

    def _add(self, spot: Spot, width: int, path: Path, message: str, hint: str) -> None:
        self._hidden  # noqa: B018 - hides what must not be shown, before the line is
        self.problems.append(self._lines.problem(spot, width, spelled(path), message, hint))

    def _exists(self, path: Path) -> bool:
        above = self.at(path[:-1])
        return not path or not isinstance(above, Mapping) or path[-1] in above.entries

    def at(self, path: Path, *, key: bool = False) -> Node:
        """Return the node of a path: its key if asked for, and where the path ends early the last key before."""
        node, last = self._root, self._root
        for step in path:
            if isinstance(node, Mapping) and step in node.entries:
                last, node = node.keys[str(step)], node.entries[str(step)]
            elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
                node = last = node.items[step]
            else:
                return last
        return last if key else node

    def _found(self, node: Node, path: Path) -> str:
        if isinstance(node, Mapping):
            return ", found a mapping"
        if isinstance(node, Sequence):
            return ", found a list"
        return "" if id(node) in self._hidden else f", found {self.shown(path)}"

    def shown(self, path: Path) -> str:
        """Return the text of a scalar as written, in quotes, for a message."""
        node = self.at(path)
        text = node.text if isinstance(node, Scalar) else ""
        return MASK if id(node) in self._hidden else quoted(_USERINFO.sub(MASK + "@", text[: 4 * LONGEST]))


def unreadable(lines: Lines, error: UnreadableError) -> Problem:
    """Return the one problem of a file that has no tree."""
    lines.hide_by_name()
    return lines.problem(error.spot, 1, "", error.message, error.hint)


def _secrets(node: Node, kind: Any) -> Iterator[Scalar]:
    """Yield the scalars that must not be shown; `kind` is the annotation of what `node` should be, None if unknown."""
    if isinstance(node, Scalar):
        if (kind is None or _holds_secrets(kind)) and not harmless(node.text):
            yield node
        return
    inner: Callable[[Any], Any] = (lambda _step: kind) if kind is not None and _is_secret(kind) else _below(kind)
    if isinstance(node, Mapping):
        for key, entry in node.entries.items():
            yield from _secrets(entry, inner(key))
    else:
        for item in node.items:
            yield from _secrets(item, inner(0))


@cache
def _below(kind: Any) -> Callable[[Any], Any]:
    models = [option for option in _options(kind) if isinstance(option, type) and issubclass(option, BaseModel)]
    if models:
        return lambda key: next((known[key] for known in map(_members, models) if key in known), None)
    many = next((option for option in _options(kind) if get_origin(option) in {list, dict}), None)
    if many is not None:
        return lambda _step: get_args(many)[-1]
    reads = next((option for option in _options(kind) if get_origin(option) is Annotated), None)
    return lambda _step: reads


_MEMBERS: dict[type[BaseModel], dict[str, Any]] = {}


def _members(model: type[BaseModel]) -> dict[str, Any]:
    """Return the annotations of a model by the keys of the file."""
    if model not in _MEMBERS:
        _MEMBERS[model] = {
            field.alias or name: Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            for name, field in model.model_fields.items()
        }
    return _MEMBERS[model]


def _options(kind: Any) -> Iterator[Any]:
    """Yield the members of a union, or the one kind itself."""
    if get_origin(kind) in {Union, UnionType}:
        for option in get_args(kind):
            yield from _options(option)
    elif kind is not None:
        yield kind


@cache
def _is_secret(kind: Any) -> bool:
    for option in _options(kind):
        if option is Secret or any(isinstance(mark, Reads) and mark.secret for mark in get_args(option)[1:]):
            return True
    return False


@cache
def _holds_secrets(kind: Any) -> bool:
    """Whether a scalar where `kind` is expected may be a secret in the wrong place."""
    for option in _options(kind):
        if isinstance(option, type) and issubclass(option, BaseModel):
            if any(_holds_secrets(member) for member in _members(option).values()):
                return True
        elif get_origin(option) in {list, dict} and _holds_secrets(get_args(option)[-1]):
            return True
    return _is_secret(kind)
