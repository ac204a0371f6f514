"""Files that only this user can read: checked before use, created whole or not at all.

It decides which files and directories are refused (a link, readable by others, open to everyone's writing); it never
repairs one. It must not open a file that SQLite has open: closing any descriptor of it would drop SQLite's locks.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sidecar.errors import StoreBrokenError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Translate what the operating system refuses into `StoreUnavailableError`."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailableError(f"{path}: {error.strerror or type(error).__name__}") from error


def check_directory(path: Path) -> None:
    """Raise `StoreBrokenError` unless `path` is a directory in which nobody else can swap our files."""
    with system_errors(path):
        if not path.is_dir():
            raise StoreBrokenError(f"{path} is not an existing directory: create it, with mode 0700")
        mode = path.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise StoreBrokenError(f"everyone can write to the directory {path}: chmod o-w it")


def check_file(path: Path) -> os.stat_result | None:
    """Return the file's status, None where there is none; raise `StoreBrokenError` unless it is a private file."""
    with system_errors(path):
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
    if not stat.S_ISREG(status.st_mode):
        raise StoreBrokenError(f"{path} is a link or a special file, and must be a plain file")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StoreBrokenError(f"others than the owner have rights on {path}: chmod 600 it")
    return status


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Give an empty private file beside `path` to fill and `publish`; it is gone afterwards."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    with system_errors(path):
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield temporary
    finally:
        with system_errors(path):
            temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> bool:
    """Let the finished file appear as `path`, durably; False, and nothing changed, where `path` exists already."""
    with system_errors(path):
        _sync(temporary)
        with suppress(FileExistsError):
            os.link(temporary, path)
            _sync(path.parent)
            return True
    return False


def create(path: Path, content: bytes) -> bool:
    """Create `path` with `content` for the owner alone; False where it exists already."""
    with draft(path) as temporary:
        with system_errors(path):
            temporary.write_bytes(content)
        return publish(temporary, path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
