"""A worker's end of the channel: what the supervisor tells it to do, and what it asks the supervisor.

Where the supervisor is gone the worker ends: nobody would start it again, nor end it.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

from sidecar import observing
from sidecar.admin import prometheus
from sidecar.config import apart
from sidecar.errors import Refusal
from sidecar.workers.channel import Unpacker, pack
from sidecar.workers.sharing import share

if TYPE_CHECKING:
    import socket

    from sidecar.program import Program
    from sidecar.reloading import Prepared
    from sidecar.workers.channel import Message

PATIENCE = 5.0
"""Seconds for the supervisor's answer."""


class Link:
    """Made on the worker's event loop. `workers` is the number of all."""

    def __init__(self, workers: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._workers = workers
        self._reader = reader
        self._writer = writer
        self._questions: dict[int, asyncio.Future[Message]] = {}
        self._asked = 0
        self._program: Program
        self._prepared: Prepared | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, channel: socket.socket, workers: int) -> Link:
        """Return the link over a channel."""
        reader, writer = await asyncio.open_unix_connection(sock=channel)
        return cls(workers, reader, writer)

    def attend(self, program: Program) -> None:
        """Do what the supervisor says with `program` from now on, and tell it of changed files."""
        self._program = program
        self._spawn(self._listen())
        self._watch()

    def tell(self, event: str, **more: Any) -> None:
        """Tell the supervisor something."""
        self._writer.write(pack({"event": event, **more}))

    async def ask(self, *want: str) -> Message:
        """Return what all workers say: `metrics` always, `readiness` and `recent` where wanted."""
        self._asked += 1
        question = self._asked
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._questions[question] = answer
        try:
            self.tell("collect", question=question, want=["metrics", *want])
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError:
            raise Refusal("overloaded", retry_after=1) from None
        finally:
            del self._questions[question]

    async def leave(self) -> None:
        """Say the last numbers and end the link."""
        self.tell("report", round=0, metrics=self._counted())
        for task in (*self._tasks, *([self._watcher] if self._watcher else [])):
            task.cancel()
        self._writer.close()

    async def _listen(self) -> None:
        inbox = Unpacker()
        while data := await self._reader.read(1 << 16):
            for message in inbox.feed(data):
                await self._heard(message)
        self._program.stopped.set()

    async def _heard(self, message: Message) -> None:
        match message["do"]:
            case "ping":
                self.tell("pong")
            case "report":
                self._spawn(self._report(message["round"], message["want"]))
            case "answer":
                answer = self._questions.get(message["question"])
                if answer is not None and not answer.done():
                    answer.set_result(message)
            case "accept":
                await self._program.listen_as(message["for"])
            case "prepare":
                self.tell("prepared", error=self._prepare(base64.b64decode(message["settings"])))
            case "commit" if self._prepared is not None:
                self._program.commit(self._prepared)
                self._prepared = None
                self._watch()
            case "reject":
                self._program.reject(message["error"], message["files"])
                self._watch()
                self._prepared = None  # its providers have sent nothing

    async def _report(self, number: int, want: list[str]) -> None:
        report: dict[str, Any] = {"metrics": self._counted()}
        if "readiness" in want:
            report["readiness"] = (await observing.readiness(self._program))._asdict()
        if "recent" in want:
            report["recent"] = list(self._program.metrics.recent)
        self.tell("report", round=number, **report)

    def _counted(self) -> dict[str, Any]:
        observing.count_connections(self._program)
        return prometheus.read(self._program.metrics)

    def _prepare(self, text: bytes) -> str:
        try:
            self._prepared = self._program.prepare(share(apart.unpacked(text), self._workers))
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    def _watch(self) -> None:
        """Watch the files of the configuration that is in use now, and of one refused since."""
        if self._watcher is not None:
            self._watcher.cancel()
        self._watcher = asyncio.get_running_loop().create_task(self._program.watch(self._changed))

    async def _changed(self) -> None:
        self.tell("changed")

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
