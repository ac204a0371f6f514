"""The lines of the file as problems show them: secrets masked, the caret moved along. Values and text only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sidecar.config.problems import LONGEST, Problem
from sidecar.config.reading import LINE_BREAK

if TYPE_CHECKING:
    from sidecar.config.reading import Spot

USERINFO = re.compile(r"(?<=//)[^/@\s]*@")
QUERY = re.compile(r"""(://[^\s?#'"]*\?)([^\s#'"}\],]+)""")  # of a URL: people put keys there
_SECRETISH = re.compile(
    r"""((?:secret|token|key|keys|basic|password|passwd|url|params)["']?\s*:(?=\s|$)\s*)(.+)""", re.IGNORECASE
)
_OPENS_SECRET = re.compile(
    r"""(?:secret|token|key|keys|basic|password|passwd|url|params)["']?\s*:\s*[|>\[{]?[+-]?\s*\Z""", re.IGNORECASE
)
MASK = "***"


def shorn(text: str) -> str:
    """Return the beginning of a value without what may be a secret in a URL: user name, password and query."""
    return QUERY.sub(rf"\g<1>{MASK}", USERINFO.sub(MASK + "@", text[: 4 * LONGEST]))


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
        _, end = _masked(line, sorted(self._hidden.get(spot.line, ())), spot.column + width)
        return Problem(
            self.file, spot.line + 1, spot.column + 1, key, message, hint, source, caret, max(1, end - caret)
        )


def _masked(line: str, hidden: list[tuple[int, int]], column: int) -> tuple[str, int]:
    """Return the line with its hidden parts replaced, and where the column is now."""
    shown, caret, at = "", column, 0
    spans = hidden + [found.span() for found in USERINFO.finditer(line)]
    spans += [found.span(2) for found in QUERY.finditer(line)]
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
