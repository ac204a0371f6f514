"""The supervisor: starts the workers, starts again what ends, hands their questions round, ends them all.

It binds the sockets and keeps them open, so that no connection is lost with a worker. It reads nothing that comes from
the network, asks no store and no authorization server. One thread, no event loop: see `spawning`.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

import structlog

from sidecar.workers.channel import pack
from sidecar.workers.crew import Worker, acceptance
from sidecar.workers.ledger import Ledger
from sidecar.workers.pulse import Pulses
from sidecar.workers.reloads import Reloads
from sidecar.workers.restarts import after_end
from sidecar.workers.rounds import Round, Rounds
from sidecar.workers.spawning import Signals, ended, fork, send, stopped

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from sidecar.listening import Doors
    from sidecar.settings import Settings
    from sidecar.workers.channel import Message

LOOK = 1.0
"""Seconds after which the clock is looked at although nothing has happened."""
_log = structlog.get_logger()


class Post(NamedTuple):
    """What a new worker begins with, in a process of its own."""

    number: int
    workers: int
    channel: socket.socket
    settings: Settings
    doors: Doors


class Supervisor:
    """`patience`: the seconds that workers have to end. `started` is called once, when all of them serve."""

    def __init__(
        self,
        settings: Settings,
        path: str,
        environ: Mapping[str, str],
        doors: Doors,
        number: int,
        patience: float,
        started: Callable[[], None],
    ) -> None:
        self._doors = doors
        self._patience = patience
        self._started = started
        self._crew = [Worker(at) for at in range(number)]
        self._signals = Signals()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._signals.socket, selectors.EVENT_READ, self._signalled)
        self._reloads = Reloads(settings, path, environ, self)
        self._rounds = Rounds(self.tell, self._answer)
        self._ledger = Ledger()
        self._pulses = Pulses()
        self._complete = False  # all have served at once
        self._stopping: float | None = None  # until when (time.monotonic)
        self._code = 0

    def run(self) -> int | Post:
        """Return the exit code when all workers have ended; in each new worker's process return its post."""
        gc.collect()
        gc.freeze()  # what is loaded by now is shared by all processes, and no collection touches it
        while True:
            now = time.monotonic()
            for worker in self._due(now):
                post = self._start(worker, now)
                if post is not None:
                    return post
            self._look_at_the_clock(now)
            if self._stopping is not None and not any(worker.pid for worker in self._crew):
                _log.info("stopped")
                return self._code
            for key, _ in self._selector.select(self._pause(now)):
                key.data()

    # -- processes ----------------------------------------------------------------------------------------------

    def _due(self, now: float) -> list[Worker]:
        """Return the workers to start now. The first one tries whether anything can: it says why not, once."""
        if self._stopping is not None or self._reloads.preparing:
            return []
        crew = self._crew if self._complete or self._crew[0].serving else self._crew[:1]
        return [worker for worker in crew if worker.due is not None and worker.due <= now]

    def _start(self, worker: Worker, now: float) -> Post | None:
        pid, channel = fork()
        if pid == 0:
            self._selector.close()
            for other in self._crew:
                if other.channel is not None:
                    other.channel.close()
            return Post(worker.number, len(self._crew), channel, self._reloads.settings, self._doors)
        worker.begin(pid, channel, now)
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._hear(worker))
        return None

    def _reap(self) -> None:
        for worker in self._crew:
            code = ended(worker.pid) if worker.pid else None
            if code is not None:
                self._hear(worker)  # its last words
                self._hang_up(worker)
                self._gone(worker, code, time.monotonic())

    def _gone(self, worker: Worker, code: int, now: float) -> None:
        pid = worker.pid
        worker.end()
        self._ledger.close(worker)
        self._pulses.heard(worker.number)
        self._rounds.gone(worker.number)
        self._reloads.gone(worker.number)
        if self._stopping is not None:
            clean = code in (0, -signal.SIGTERM)  # one that was just starting heard it before it could listen
            self._code = self._code or (0 if clean else 1)
        elif not self._complete:
            self._code = code if code > 0 else 1
            self._stop(now)
        else:
            worker.failures, worker.due = after_end(worker.failures, worker.started, now)
            self._ledger.restarts += 1
            how = f"exit {code}" if code >= 0 else f"signal {-code}"
            _log.warning("worker_ended", number=worker.number, pid=pid, how=how, again_in=round(worker.due - now, 1))
            self._share_out()

    def _stop(self, now: float) -> None:
        _log.info("stopping")
        self._stopping = now + self._patience
        self._doors.close()
        self._doors.remove()
        self._kill(signal.SIGTERM)

    def _kill(self, number: signal.Signals) -> None:
        for worker in self._crew:
            if worker.pid:
                os.kill(worker.pid, number)  # ours until we reap it: it cannot be another's

    def _look_at_the_clock(self, now: float) -> None:
        self._rounds.expire(now)
        self._reloads.expire(now)
        self._feel(now)
        if self._stopping is not None and now >= self._stopping:
            self._code, self._stopping = 1, now + self._patience
            self._kill(signal.SIGKILL)

    @property
    def _borne(self) -> float:
        return self._reloads.settings.limits.worker_silence

    def _feel(self, now: float) -> None:
        """Ask the workers whether they are alive; kill one whose event loop has long been silent."""
        if self._stopping is not None or now < self._pulses.next(self._borne):
            return
        there = [worker.number for worker in self._crew if worker.attends and worker.channel is not None]
        still = [number for number in self._pulses.silent if stopped(self._crew[number].pid)]
        ask, hung = self._pulses.look(now, self._borne, there, still)
        for number in ask:
            self.tell(number, {"do": "ping"})
        if hung is not None:
            self._give_up(self._crew[hung])

    def _give_up(self, worker: Worker) -> None:
        _log.error("worker_hung", number=worker.number, pid=worker.pid)
        os.kill(worker.pid, signal.SIGKILL)

    def _pause(self, now: float) -> float:
        dates = [self._rounds.next(), self._reloads.until]
        if self._stopping is None and self._complete:
            dates += [*(worker.due for worker in self._crew), self._pulses.next(self._borne)]
        return max(0.0, min([date - now for date in dates if date is not None], default=LOOK))

    def workers(self) -> list[int]:
        """Return the workers that have a process."""
        return [worker.number for worker in self._crew if worker.pid]

    # -- what is heard ------------------------------------------------------------------------------------------

    def _signalled(self) -> None:
        for number in self._signals.arrived():
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._reloads.ask()
            elif self._stopping is None:
                self._stop(time.monotonic())
            else:  # asked twice: at once, and whatever is under way is lost
                self._code = 1
                self._kill(signal.SIGKILL)

    def _hear(self, worker: Worker) -> None:
        while worker.channel is not None:
            try:
                data = worker.channel.recv(1 << 16)
            except (BlockingIOError, ConnectionResetError):
                return
            if not data:
                self._hang_up(worker)
                return
            for message in worker.inbox.feed(data):
                self._heard(worker, message)

    def _heard(self, worker: Worker, message: Message) -> None:
        now = time.monotonic()
        match message["event"]:
            case "serving" | "leaving" as event:
                worker.serving, worker.attends = event == "serving", True
                self._share_out()
                self._celebrate()
            case "collect":
                self._rounds.begin(worker.number, message["question"], message["want"], self._serving(), now)
            case "pong":
                self._pulses.heard(worker.number)
            case "report":
                worker.last = message.get("metrics", worker.last)
                self._rounds.heard(worker.number, message)
            case "changed":
                self._reloads.changed()
            case "prepared":
                self._reloads.prepared(worker.number, message["error"])
            case "quit" if self._stopping is None:
                self._stop(now)

    def _celebrate(self) -> None:
        if not self._complete and self._stopping is None and all(worker.serving for worker in self._crew):
            self._complete = True
            self._started()

    def when_readable(self, descriptor: int, call: Callable[[], None]) -> None:
        """See `reloads.Office`."""

        def readable() -> None:
            self._selector.unregister(descriptor)
            call()

        self._selector.register(descriptor, selectors.EVENT_READ, readable)

    # -- what is said -------------------------------------------------------------------------------------------

    def tell(self, number: int, message: Message) -> None:
        """Send a message to a worker, unless it has ended."""
        worker = self._crew[number]
        if worker.channel is None:
            return
        try:
            send(worker.channel, pack(message))
        except TimeoutError:
            self._give_up(worker)  # half a message is there: it could not understand another
        except ConnectionError:
            self._hang_up(worker)  # it is ending

    def _share_out(self) -> None:
        """Let workers accept for those that are not there."""
        for number, accepts in acceptance(self._crew).items():
            worker = self._crew[number]
            if worker.accepts != accepts:
                worker.accepts = accepts
                self.tell(number, {"do": "accept", "for": accepts})

    def _answer(self, found: Round) -> None:
        routes = {route.name for route in self._reloads.settings.routes}
        self.tell(found.asker, self._ledger.answer(found, self._crew, routes, self._reloads.rows()))

    def _serving(self) -> list[int]:
        return [worker.number for worker in self._crew if worker.serving]

    def _hang_up(self, worker: Worker) -> None:
        if worker.channel is not None:
            self._selector.unregister(worker.channel)
            worker.channel.close()
            worker.channel = None
