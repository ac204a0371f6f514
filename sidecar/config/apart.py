"""The configuration, read in a process of its own that ends: YAML and pydantic never enter the one that serves.

They would cost it 11 MB for good, and a fifth of a second at start, which the other process spends beside it. Decides
nothing about the file: `loading` does, there as here. The settings come back by a pipe that nobody else holds, secrets
included. Where there can be no other process, the file is read here.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

from sidecar import config
from sidecar.model import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.settings import Settings

_CHILD = "import sys; path, *sys.path = sys.argv[1:]; from sidecar.config import apart; apart.answer(path)"


class Reading:
    """A configuration that is being read in another process since this was made."""

    def __init__(self, path: str | Path, environ: Mapping[str, str]) -> None:
        self._path, self._environ = str(path), environ
        self._child = _start(self._path, environ)

    def settings(self) -> Settings:
        """Wait for the configuration, and return it or raise `ConfigError`, as `config.load` would."""
        told = _told(self._child) if self._child else None
        if isinstance(told, tuple):
            raise config.ConfigError(told)
        return told or config.load(self._path, self._environ)


def load(path: str | Path, environ: Mapping[str, str]) -> Settings:
    """Do what `config.load` does, in another process."""
    return Reading(path, environ).settings()


def _start(path: str, environ: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    # Isolated: what Python's own variables say is in `sys.path` already. What it says of itself is nobody's business.
    flags = ["-I", "-B"] if sys.dont_write_bytecode else ["-I"]
    argv = [sys.executable, *flags, "-c", _CHILD, path, *sys.path]
    try:
        return subprocess.Popen(  # noqa: S603 - ourselves
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(environ)
        )
    except (OSError, ValueError):
        return None


def _told(child: subprocess.Popen[bytes]) -> Settings | tuple[config.Problem, ...] | None:
    """Return what the child found, None where it did not come to an end."""
    text, _ = child.communicate()
    if child.returncode:
        return None
    found: Settings | tuple[config.Problem, ...] = pickle.loads(text)  # noqa: S301 - our own child's
    return found


def answer(path: str) -> None:
    """In the child: read the file, write what was found to standard output, and end."""
    import gc  # noqa: PLC0415
    import resource  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold every secret
    gc.disable()
    try:
        found: Any = config.load(path, os.environ)
    except config.ConfigError as error:
        found = error.problems
    with os.fdopen(1, "wb") as pipe:
        _Pickler(pipe).dump(found)
    os._exit(0)


def packed(settings: Settings) -> bytes:
    """Return the settings, secrets included, for a pipe to a process of ours."""
    text = io.BytesIO()
    _Pickler(text).dump(settings)
    return text.getvalue()


def unpacked(text: bytes) -> Settings:
    """Return what `packed` made; for what the process that started us sends."""
    settings: Settings = pickle.loads(text)  # noqa: S301 - our own parent's
    return settings


class _Pickler(pickle.Pickler):
    """Lets secrets through, which pickle themselves for nobody."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.dispatch_table = {Secret: lambda secret: (Secret, (secret.reveal(),))}
