"""A parsed file as the rest of `config` sees it: plain data, and for every path its place. Collects the problems."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sidecar.config import schema
from sidecar.config.hiding import secrets
from sidecar.config.kinds import BROKEN
from sidecar.config.lines import MASK, Lines, shorn
from sidecar.config.problems import Misfit, Problem, quoted
from sidecar.config.reading import Flaw, Mapping, Node, Path, Scalar, Sequence, Spot, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable

_NOTHING = "write one, or leave the key out where it has a default; what belongs to a key is indented below it"
_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*\Z")
_QUOTES = frozenset(
    "\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\u00ab\u00bb\u2039\u203a\u2033\uff02"
)  # typographic ones
_SIMPLE = re.compile(r"[A-Za-z0-9_-]+\Z")


def spelled(path: Path) -> str:
    """Return `routes[1].as`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if _SIMPLE.match(step) else quoted(step))
    return text


class Document:
    """The tree, its data with references expanded, and the problems found so far."""

    def __init__(self, lines: Lines, root: Node, flaws: list[Flaw]) -> None:
        self._lines = lines
        self._root = root
        self._reported: set[Path] = set()
        self._nothings: list[Path] = []
        self.problems: list[Problem] = []
        self.bare: list[str] = []  # places of texts that look like a shell's variable, and are kept as they stand
        for flaw in flaws:
            if flaw.dropped is not None:
                lines.hide(flaw.dropped.start, flaw.dropped.end)
        for flaw in flaws:
            self._add(flaw.spot, flaw.width, flaw.path, flaw.message, flaw.hint)

    @cached_property
    def _hidden(self) -> frozenset[int]:
        """Identities of the scalars that are not shown; looked for once there is a problem to show."""
        nodes = list(secrets(self._root, schema.File))
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
            if node.plain and node.text[:1] in _QUOTES:
                return self._quoted(path)
            return self._text(node, path, memo, expand) if "$" in node.text else self._plain(node, path)

        return convert(self._root, ())

    def _quoted(self, path: Path) -> Any:
        hint = "write straight quotes; where the marks belong to the text, put straight quotes around them"
        self.report(path, "typographic quotation marks quote nothing in YAML", hint)
        return BROKEN

    def _plain(self, node: Scalar, path: Path) -> Any:
        if node.null:
            self._nothings.append(path)
            return BROKEN
        return node.text

    def _text(self, node: Scalar, path: Path, memo: dict[int, str | Misfit], expand: Callable[[str], str]) -> Any:
        if id(node) not in memo:
            if _VARIABLE.match(node.text):
                self.bare.append(f"{self._lines.file}:{node.start.line + 1}:{node.start.column + 1}: {spelled(path)}")
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
            self.report(path, "expected a value, found nothing", _NOTHING)

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
        return MASK if id(node) in self._hidden else quoted(shorn(text))


def unreadable(lines: Lines, error: UnreadableError) -> Problem:
    """Return the one problem of a file that has no tree."""
    lines.hide_by_name()
    return lines.problem(error.spot, 1, "", error.message, error.hint)
