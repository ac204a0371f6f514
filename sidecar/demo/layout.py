"""Draws the demo's scenes as plain text: two columns whose equal header lines stand side by side, and marked facts.

Pure: the style is an argument, lines come back. Knows nothing about HTTP beyond "a line begins with its name".
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import TextIO

WIDEST, NARROWEST, TWO_COLUMNS = 100, 40, 76
INDENT = "   "
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "cyan": "36"}


@dataclass(frozen=True, slots=True)
class Style:
    """What the reader's screen can show. `width` is in characters."""

    width: int = WIDEST
    colour: bool = False
    unicode: bool = True

    def paint(self, text: str, *names: str) -> str:
        """Return `text` in these colours, where there are any."""
        if not self.colour or not text:
            return text
        return f"\x1b[{';'.join(_CODES[name] for name in names)}m{text}\x1b[0m"

    def plain(self, text: str) -> str:
        """Return `text` in the characters that the screen has."""
        return text if self.unicode else text.translate(_ASCII).encode("ascii", "replace").decode()


_ASCII = str.maketrans({"│": "|", "…": "...", "→": "->", "✓": "ok", "✗": "FAILED"})


def style(out: TextIO, environ: Mapping[str, str], columns: int) -> Style:
    """Return the style for a stream: colours on a terminal alone, and not under NO_COLOR (https://no-color.org)."""
    terminal = out.isatty()
    colour = terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    width = max(NARROWEST, min(WIDEST, columns)) if terminal else WIDEST
    return Style(width, colour, (getattr(out, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8")


class Check(NamedTuple):
    """One fact of a scene: what should be so, and whether it is."""

    text: str
    right: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """One step of the story. `compare` marks the lines that only one side has."""

    title: str
    intro: str
    left: Sequence[str]
    right: Sequence[str]
    checks: Sequence[Check]
    heads: tuple[str, str] = ("what the app sent", "what the API received")
    compare: bool = True

    @property
    def right_in_all(self) -> bool:
        """Whether every fact is as it should be."""
        return all(check.right for check in self.checks)


def scene(look: Style, number: int, shown: Scene) -> Iterator[str]:
    """Yield the lines of one scene."""
    yield look.paint(f"{number:>2} {shown.title}", "bold")
    yield from (INDENT + line for line in textwrap.wrap(look.plain(shown.intro), look.width - len(INDENT)))
    yield ""
    if look.width >= TWO_COLUMNS:
        yield from _beside(look, shown)
    else:
        yield from _below(look, shown)
    yield ""
    for check in shown.checks:
        yield from fact(look, check)
    yield ""


def fact(look: Style, check: Check) -> Iterator[str]:
    """Yield the lines of one marked fact."""
    mark = look.plain("✓" if check.right else "✗")
    lines = textwrap.wrap(look.plain(check.text), look.width - len(INDENT) - len(mark) - 1)
    yield f"{INDENT}{look.paint(mark, 'green' if check.right else 'red', 'bold')} {lines[0]}"
    yield from (INDENT + " " * (len(mark) + 1) + line for line in lines[1:])


class Row(NamedTuple):
    """One row of the two columns. `mark` is "" for equal lines, "~" for changed ones, "-+" for lines of one side."""

    left: str
    right: str
    mark: str


def rows(left: Sequence[str], right: Sequence[str]) -> Iterator[Row]:
    """Yield the two texts with lines of equal name on one row, blanks where a side has none."""
    matcher = SequenceMatcher(None, [_name(line) for line in left], [_name(line) for line in right], autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            yield from (Row(a, b, "" if a == b else "~") for a, b in zip(left[i:j], right[k:m], strict=True))
        else:
            yield from (Row(line, "", "-+") for line in left[i:j])
            yield from (Row("", line, "-+") for line in right[k:m])


def _name(line: str) -> str:
    name, colon, _ = line.partition(": ")
    return name.lower() if colon else line.partition(" ")[0]


def _cells(look: Style, shown: Scene, width: int) -> Iterator[tuple[list[str], list[str]]]:
    """Yield what stands side by side: row by row where the columns are compared, each column whole where not."""
    if not shown.compare:
        yield _column(look, shown.left, width), _column(look, shown.right, width)
        return
    for row in rows(shown.left, shown.right):
        yield _cell(look, row.left, width, row.mark[:1]), _cell(look, row.right, width, row.mark[-1:])


def _beside(look: Style, shown: Scene) -> Iterator[str]:
    bar = look.plain("│")
    width = (look.width - len(INDENT) - 3) // 2
    yield f"{INDENT}{look.paint(shown.heads[0].ljust(width), 'dim')} {bar} {look.paint(shown.heads[1], 'dim')}"
    for left, right in _cells(look, shown, width):
        for a, b in zip_longest(left, right, fillvalue=""):
            yield f"{INDENT}{_tint(look, a.ljust(width))} {bar} {_tint(look, b)}".rstrip()


def _below(look: Style, shown: Scene) -> Iterator[str]:
    cells = list(_cells(look, shown, look.width - len(INDENT)))
    for side, head in enumerate(shown.heads):
        yield INDENT + look.paint(head + ":", "dim")
        yield from (INDENT + _tint(look, line) for pair in cells for line in pair[side])


def _column(look: Style, lines: Iterable[str], width: int) -> list[str]:
    return [part for line in lines for part in _cell(look, line, width, "") or [""]]


def _cell(look: Style, text: str, width: int, mark: str) -> list[str]:
    """Return the lines of one cell, the mark in front of each."""
    lines = textwrap.wrap(look.plain(text), width - 2, subsequent_indent="  ", break_on_hyphens=False)
    return [f"{mark or ' '} {line}" for line in lines]


def _tint(look: Style, cell: str) -> str:
    colour = {"-": "red", "+": "green", "~": "cyan"}.get(cell[:1])
    return look.paint(cell, colour) if colour else cell
