"""What is wrong with a configuration, and how it is shown: place, key, message, source line, caret, hint.

Values and their rendering only. A problem never holds a secret: whoever makes one passes text that is already masked.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

WIDEST = 110  # characters of a source line that are shown
LONGEST = 60  # characters of a value that are quoted


class Problem(NamedTuple):
    """One thing that is wrong. `line` and `column` count from 1; line 0 stands for the file as a whole.

    `source` is the line as it may be shown (secrets masked), `caret` the offset in it, `width` the marked characters.
    """

    file: str
    line: int
    column: int
    key: str
    message: str
    hint: str = ""
    source: str = ""
    caret: int = 0
    width: int = 1

    @property
    def place(self) -> str:
        """`file:line:column`, as editors and terminals understand it."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.place}: {key}{self.message}"


class ConfigError(Exception):
    """A configuration that is refused, with every problem found in it, in the order of the file.

    `files` are those that it names, whether they are there or not, with their `contents.content` as they were read: a
    change of one may mend it.
    """

    def __init__(self, problems: Iterable[Problem], files: Mapping[str, str] | None = None) -> None:
        self.files = dict(files or {})
        self.problems = tuple(sorted(problems, key=lambda p: (p.line, p.column, p.key, p.message)))
        super().__init__(self.problems)

    def __str__(self) -> str:
        return render(self)


class Misfit(ValueError):  # noqa: N818 - a value that does not fit its key
    """A value that its key cannot take. Neither `message` nor `hint` holds the value: it may be a secret."""

    def __init__(self, message: str = "", hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint


def render(error: ConfigError, *, colour: bool = False) -> str:
    """Return the text for a terminal or a log: all problems, one block each, and their count at the end."""
    blocks = [_block(problem, colour=colour) for problem in error.problems]
    count = len(blocks)
    return "\n".join([*blocks, f"{count} problem{'' if count == 1 else 's'}"])


def _block(problem: Problem, *, colour: bool) -> str:
    def paint(text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if colour else text

    key = f"{problem.key}: " if problem.key else ""
    lines = [f"{paint(problem.place, '1')}: {key}{paint(problem.message, '31')}"]
    if problem.source.strip():
        source, caret = _window(problem.source, problem.caret)
        width = max(1, min(problem.width, len(source) - caret))
        gutter = f"{problem.line:>5} | "
        lines += [gutter + source, " " * (len(gutter) - 2) + "| " + " " * caret + paint("^" * width, "31")]
    if problem.hint:
        lines.append(f"      {paint('hint:', '36')} {problem.hint}")
    return "\n".join(lines)


def _window(source: str, caret: int) -> tuple[str, int]:
    """Cut a long line around the caret."""
    if len(source) <= WIDEST:
        return source, caret
    start = max(0, min(caret - WIDEST // 2, len(source) - WIDEST))
    head, tail = ("…" if start else ""), ("…" if start + WIDEST < len(source) else "")
    return head + source[start : start + WIDEST] + tail, caret - start + len(head)


def quoted(text: str) -> str:
    """Return `text` in quotes, short, on one line, and harmless to a terminal."""
    short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return "'" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short) + "'"


def either(words: Iterable[str], last: str = "or") -> str:
    """Return `'a', 'b' or 'c'`."""
    names = [quoted(word) for word in words]
    return f" {last} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def near(word: str, known: Iterable[str], closeness: float = 0.6) -> str:
    """Return `did you mean 'user'?`, or nothing where no known word is close: from 0 (any) to 1 (the same)."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=closeness)
    return f"did you mean {quoted(by_lower[found[0]])}?" if found else ""
