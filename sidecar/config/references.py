"""`${NAME}`, `${NAME:-default}`, `${NAME:?message}`, `${file:PATH}` and `$$` in the scalars of a parsed file.

Works on scalars after parsing, so that no value can change the structure. An expanded value is not expanded again.
Reads files through `Files` only, the one window of this module; nothing here shows a value.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from sidecar.config.contents import content
from sidecar.config.problems import Misfit, near, quoted
from sidecar.config.reading import BOMS, WITHOUT_BOM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LARGEST = 1024 * 1024  # bytes of a file that ${file:…} reads
_MARK = re.compile(r"\$(?:(\$)|\{([^{}]*)\}|(\{))")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::([-?])(.*))?\Z", re.DOTALL)
_BARE = re.compile(r"(?:\$\{(?:file:[^{}]*|[A-Za-z_][A-Za-z0-9_]*(?::\?[^{}]*)?)\})+\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")
_FORMS = "write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${file:PATH}; a dollar sign alone is $$"


class Files:
    """The files that references name, relative to the configuration's own folder.

    `held` has what each of those asked for held just before it was read: later changes are told by it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._texts: dict[str, str | Misfit] = {}
        self.held: dict[str, str] = {}
        self.open_to_all: set[str] = set()  # files that every user of the machine may read

    @property
    def names(self) -> tuple[str, ...]:
        """Absolute names of the files asked for, whether they could be read or not."""
        return tuple(self._texts)

    def is_file(self, name: str) -> bool:
        """Say whether there is such a file."""
        path = self.note(name)
        return os.path.isfile(path)  # noqa: PTH113

    def note(self, name: str) -> str:
        """Take note of what a file holds, unless that was done; return its absolute name."""
        path = self.absolute(name)
        if path not in self.held:
            self.held[path] = content(path)
        return path

    def absolute(self, name: str) -> str:
        """Return the file's absolute name, symbolic links kept as they are."""
        return os.path.abspath(self._folder / name)  # noqa: PTH100 - resolve() would follow the links we must watch

    def text(self, name: str) -> str:
        """Return the file's text without one trailing newline; raise `Misfit` where it cannot be had."""
        path = self.note(name)
        if path not in self._texts:
            try:
                self._texts[path] = self._read(path).removesuffix("\n").removesuffix("\r")
            except Misfit as misfit:
                self._texts[path] = misfit
        text = self._texts[path]
        if isinstance(text, Misfit):
            raise text
        return text

    def _read(self, path: str) -> str:
        shown = quoted(path)
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116 - one call for kind and permissions
            if not stat.S_ISREG(mode):
                raise Misfit(f"the file {shown} is not a regular file")
            with open(path, "rb") as file:  # noqa: PTH123
                data = file.read(LARGEST + 1)
            if data.startswith(BOMS):
                raise Misfit(f"the file {shown} starts with a byte order mark", WITHOUT_BOM)
            text = data.decode("utf-8")
        except (OSError, ValueError) as error:
            raise _unreadable(shown, error) from None
        if len(data) > LARGEST:
            raise Misfit(f"the file {shown} is larger than 1 MiB")
        if mode & stat.S_IROTH:
            self.open_to_all.add(path)
        return text


def _unreadable(shown: str, error: OSError | ValueError) -> Misfit:
    if isinstance(error, Misfit):
        return error
    if isinstance(error, OSError):
        return Misfit(f"the file {shown} cannot be read: {error.strerror or 'unknown cause'}")
    return Misfit(f"the file {shown} is not UTF-8 text")


def expand(text: str, environ: Mapping[str, str], read: Callable[[str], str]) -> str:
    """Return `text` with its references replaced; raise `Misfit` for the first that cannot be.

    `read` returns the text of a file named in `${file:…}`.
    """

    def replace(mark: re.Match[str]) -> str:
        dollar, inside, unclosed = mark.groups()
        if unclosed:
            raise Misfit("a reference is not closed, or holds another one", _FORMS)
        return "$" if dollar else _value(inside, environ, read)

    return _MARK.sub(replace, text)


def _value(inside: str, environ: Mapping[str, str], read: Callable[[str], str]) -> str:
    if inside.startswith("file:"):
        if not inside.removeprefix("file:") or "\0" in inside:
            raise Misfit("${file:PATH} names no file", _FORMS)
        return read(inside.removeprefix("file:"))
    found = _NAME.match(inside)
    if not found:
        raise Misfit("a reference that cannot be understood", _FORMS)
    return _variable(found, environ)


def _variable(found: re.Match[str], environ: Mapping[str, str]) -> str:
    name, how, rest = found.groups()
    value = environ.get(name)
    if value and _SURROGATE.search(value):
        raise Misfit(f"the environment variable {name} is not UTF-8 text")
    if value or (how is None and value is not None):
        return value
    if how == "-":
        return str(rest)
    if how == "?" and rest:
        raise Misfit(f"the environment variable {name} is needed: {rest}")
    state = "empty" if value == "" else "not set"
    hint = near(name, environ, 0.75) or f"set {name}, or write ${{{name}:-default}}"
    raise Misfit(f"the environment variable {name} is {state}", hint)


def harmless(text: str) -> bool:
    """Whether a secret key's text holds references alone, so that it may be shown."""
    return bool(_BARE.match(text))
