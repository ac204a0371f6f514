"""What files hold, in one short text: equal as long as nothing of it changes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def digest(files: Iterable[str], held: Mapping[str, str] | None = None) -> str:
    """Return a hash over the names and contents of the files. `held`: the `content` of some at an earlier time."""
    total = hashlib.sha256()
    for name in files:
        found = (held or {}).get(name) or content(name)
        total.update(f"{name}\0{found}\0".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def content(name: str) -> str:
    """Return a hash of what a file holds. What cannot be read, or is no file, counts as absent."""
    path = Path(name)
    try:
        if not path.is_file():
            return "none"  # a pipe would be waited for, and what it holds be lost
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"errno {error.errno}"
