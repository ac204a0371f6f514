"""What files hold, in one short text: equal as long as nothing of it changes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def digest(files: Sequence[str]) -> str:
    """Return a hash over the names and contents of the files. What cannot be read, or is no file, counts as absent."""
    total = hashlib.sha256()
    for name in files:
        try:
            path = Path(name)  # a pipe would be waited for, and what it holds be lost
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "none"
        except OSError as error:
            content = f"errno {error.errno}"
        total.update(f"{name}\0{content}\0".encode("utf-8", "surrogateescape"))
    return total.hexdigest()
