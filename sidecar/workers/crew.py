"""The workers as the supervisor sees them, and who accepts for whom. Decides; touches no process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.workers.channel import Unpacker

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from sidecar.workers.merging import Snapshot


@dataclass(slots=True, eq=False)
class Worker:
    """One of the workers by its number, through all processes that are it in turn. Times: `time.monotonic`."""

    number: int
    pid: int = 0  # 0: there is no process
    channel: socket.socket | None = None
    inbox: Unpacker = field(default_factory=Unpacker)
    serving: bool = False
    attends: bool = False  # it hears what it is told, from its first `serving` to its end
    accepts: tuple[int, ...] = ()  # the numbers for which it was told to accept
    started: float = 0.0
    failures: int = 0  # ends in a row
    due: float | None = 0.0  # when to start it; None: it runs
    last: Snapshot = field(default_factory=dict)  # what it counted, as it last said

    def begin(self, pid: int, channel: socket.socket, now: float) -> None:
        """Take note of a new process."""
        self.pid, self.channel, self.inbox = pid, channel, Unpacker()
        self.serving, self.accepts, self.started, self.due, self.last = False, (self.number,), now, None, {}
        self.attends = False

    def end(self) -> None:
        """Take note that there is no process any more."""
        self.pid, self.serving = 0, False


def acceptance(workers: Iterable[Worker]) -> dict[int, tuple[int, ...]]:
    """Return for each worker that serves the numbers for whose sockets it accepts: its own, and those of the absent.

    Connections wait at the socket of a worker that is not there; one of the others takes them.
    """
    everyone = list(workers)
    there = [worker.number for worker in everyone if worker.serving]
    absent = [worker.number for worker in everyone if not worker.serving]
    if not there:
        return {}
    stands_in = {number: there[number % len(there)] for number in absent}
    return {one: (one, *(number for number in absent if stands_in[number] == one)) for one in there}
