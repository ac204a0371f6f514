"""New processes: what a supervisor must do before it forks, and what a child must let go of.

The supervisor has one thread and no event loop, so that forking is safe. It forks and does not execute anew: a child
has all modules at once, shared in memory, of the version that was started, and its secrets come by no argument,
variable or file.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HEARD = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IGNORED = (signal.SIGINT, signal.SIGHUP)  # a terminal sends them to all; the supervisor passes them on
SEND_PATIENCE = 1.0


class Signals:
    """The signals sent to the supervisor, as numbers to read from a socket."""

    def __init__(self) -> None:
        self.socket, self._writer = socket.socketpair()
        self.socket.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in HEARD:
            signal.signal(number, _noted)
        os.register_at_fork(after_in_child=self.forget)  # also in what reads a new configuration

    def arrived(self) -> Iterator[int]:
        """Yield the signals that have come."""
        try:
            yield from self.socket.recv(4096)
        except BlockingIOError:
            return

    def forget(self) -> None:
        """In a child: hear nothing more for the supervisor."""
        signal.set_wakeup_fd(-1)
        for number in HEARD:
            signal.signal(number, signal.SIG_IGN if number in _IGNORED else signal.SIG_DFL)
        self.socket.close()
        self._writer.close()


def _noted(_number: int, _frame: object) -> None:
    """Do nothing: the number is in the socket."""


def fork() -> tuple[int, socket.socket]:
    """Return a child's process id and our end of the channel to it; in the child 0 and its end.

    No signal reaches the child while it would still take it for the supervisor's.
    """
    ours, theirs = socket.socketpair()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        pid = os.fork()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    kept, closed = (ours, theirs) if pid else (theirs, ours)
    closed.close()
    kept.setblocking(False)
    return pid, kept


def send(channel: socket.socket, data: bytes) -> None:
    """Send all of `data`; raise `TimeoutError` where the other end does not read for `SEND_PATIENCE` seconds."""
    channel.settimeout(SEND_PATIENCE)
    try:
        channel.sendall(data)
    finally:
        channel.setblocking(False)


def stopped(pid: int) -> bool:
    """Say whether a child stands still because somebody has stopped it: SIGSTOP, SIGTSTP, a debugger."""
    with suppress(OSError):  # it has just ended
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] in b"Tt"
    return False


def ended(pid: int) -> int | None:
    """Return the exit code (minus the signal's number) of a child that has ended, None for one that runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None
