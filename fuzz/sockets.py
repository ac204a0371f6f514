"""`python -m fuzz.sockets`: mutated requests over sockets, through a real sidecar, to a real nginx and a real HAProxy.

Between them go good requests, each with a tag of its own. Looked for: a crash, a hang, somebody else's answer, a token
in anything that a caller gets or in the log, and any request that nginx, HAProxy and h11 do not see alike [SM-29].
Needs the Debian packages nginx and haproxy. Exit code 1 where something was found.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from fuzz.far_side import HAPROXY, NGINX, Backend, NginxLog, Tap, differences, haproxy, nginx
from fuzz.mutate import WIRE_REQUESTS, pieces, stream
from fuzz.reading import StrictError, h11_requests, read_responses
from sidecar.build import is_compiled
from tests.support import process as processes
from tests.support.process import Backdrop, Process

BATCH = 500  # cases between two comparisons
CALLERS = 64
MOST_WRITES = 12  # a stream that is cut into more pieces is sent in one piece from there on
QUIET = 0.15  # seconds for which an unfinished request's caller waits
HANG = 20.0  # seconds for a whole one
_CONFIG = """
listeners: [{{bind: "127.0.0.1:0"}}]
admin: {{bind: "127.0.0.1:0", token: "${{ADMIN_TOKEN}}"}}
store: {{url: "memory:"}}
access_log: true
providers:
  idp: {{issuer: "{issuer}", client_id: legacy-app, client_secret: "${{CLIENT_SECRET}}"}}
routes:
  - {{name: app, match: {{host: app.internal}}, upstream: "http://127.0.0.1:{nginx}", as: app, scope: stats.read}}
  - {{name: none, match: {{host: none.internal}}, upstream: "http://127.0.0.1:{nginx}", as: none}}
  - {{name: base, match: {{path: /base}}, upstream: "http://127.0.0.1:{nginx}/v1", strip_prefix: true, as: app, scope: stats.read}}
  - {{name: user, match: {{host: user.internal}}, upstream: "http://127.0.0.1:{haproxy}", as: user, scope: profiles.read}}
  - {{name: always, match: {{host: always.internal}}, upstream: "http://127.0.0.1:{haproxy}", as: app, scope: stats.read}}
"""


@dataclass
class Run:
    """One run and what it found."""

    port: int
    backdrop: Backdrop
    seed: int
    sent: int = 0
    good: int = 0
    answers: int = 0
    forwarded: int = 0
    found: list[str] = field(default_factory=list)
    canaries: tuple[bytes, ...] = ()
    got: list[tuple[bytes, bytes]] = field(default_factory=list)  # what was sent and answered in this batch

    def find(self, text: str) -> None:
        self.found.append(text)
        print("FOUND:", text[:1500], flush=True)

    async def one(self, number: int) -> None:
        """Send one mutated stream, read what comes, and follow a whole one by a good request."""
        rng = random.Random(self.seed << 40 | number)
        data = _to_two_servers(rng, stream(rng, WIRE_REQUESTS))
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            parts = pieces(rng, data)
            for piece in (*parts[:MOST_WRITES], b"".join(parts[MOST_WRITES:])):
                if writer.is_closing():  # cut by the sidecar: the answer, if there is one, is to be read all the same
                    break
                writer.write(piece)
                await asyncio.sleep(0)
            await self._answers(number, data, reader, writer)
        except ConnectionError:
            pass
        finally:
            self.sent += 1
            writer.transport.abort()

    async def _answers(
        self, number: int, data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        heard = h11_requests(data)
        methods = [request.method for request in heard.requests]
        whole = (
            bool(methods) and not heard.broken and heard.begun is None and not heard.rest and b"CONNECT" not in methods
        )
        got = b""
        while True:
            responses, _ = self._read(got, [*methods, *([heard.begun.method] if heard.begun else [])], data)
            if whole and len(responses) >= len(methods) and responses[-1].whole and not responses[-1].until_close:
                break
            try:
                more = await asyncio.wait_for(reader.read(1 << 16), HANG if whole else QUIET)
            except TimeoutError:
                if whole:
                    self.find(f"case {number}: no answer to {data!r}, only {got!r}")
                return
            got += more
            self.got.append((data, got))
            if not more:
                return
        self.answers += len(responses)
        if not any(b"close" in response.all(b"connection") for response in responses):
            await self.follow(reader, writer, b"app.internal", number)

    async def follow(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: bytes, number: int
    ) -> None:
        """Send a good request; its answer, if there is one, is its own."""
        tag = b"/good-%d-%d" % (self.good, number)
        self.good += 1
        writer.write(b"GET http://%b%b HTTP/1.1\r\nHost: %b\r\nX-Session-Id: session-alice\r\n\r\n" % (host, tag, host))
        got = b""
        while not (read := self._read(got, [b"GET"], tag)[0]) or not read[0].whole:
            more = await asyncio.wait_for(reader.read(1 << 16), HANG)
            if not more:
                return
            got += more
            self.got.append((tag, got))
        if (read[0].status, read[0].body) != (200, b"GET " + tag):
            self.find(f"the good request {tag!r} after case {number} got {got!r}")

    async def goodness(self, host: bytes, stop: asyncio.Event) -> None:
        """Send good requests on one connection until told to stop."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while not stop.is_set():
            await self.follow(reader, writer, host, -1)
            await asyncio.sleep(0.02)
        writer.close()

    def _read(self, got: bytes, methods: list[bytes], data: bytes) -> tuple[list, bytes]:  # type: ignore[type-arg]
        try:
            return read_responses(got, methods)
        except StrictError as error:
            self.find(f"{error} in answer to {data!r}: {got!r}")
            return [], b""

    def _look_for_canaries(self) -> None:
        """Look through all answers of a batch, when it is known which tokens there were."""
        tokens = self.backdrop.do(lambda: list(self.backdrop.server.state.ledger.access))
        self.canaries = tuple(token.encode() for token in tokens)
        for data, got in self.got:
            if any(canary in got for canary in self.canaries):
                self.find(f"a token in the answer to {data!r}")
        self.got.clear()

    async def batch(self, first: int, end: int) -> None:
        """Play the cases from `first` up to `end`, some at a time, with good requests between them."""
        numbers = iter(range(first, end))
        stop = asyncio.Event()

        async def caller() -> None:
            for number in numbers:
                await self.one(number)

        good = [asyncio.create_task(self.goodness(host, stop)) for host in (b"app.internal", b"user.internal")]
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        stop.set()
        await asyncio.gather(*good)
        self._look_for_canaries()


def _to_two_servers(rng: random.Random, data: bytes) -> bytes:
    """Half of what the seeds send to app.internal goes to HAProxy."""
    return data.replace(b"app.internal", b"always.internal") if rng.random() < 0.5 else data


async def run(count: int, seed: int, folder: Path, *, first: int = 0) -> Run:
    """Run `count` cases; return what was found."""
    async with AsyncExitStack() as stack:
        backdrop = stack.enter_context(Backdrop())
        backend = Backend()
        await backend.start()
        stack.push_async_callback(backend.stop)
        web = stack.enter_context(nginx(folder))
        proxy = stack.enter_context(haproxy(folder, backend.port))
        taps = {"nginx": Tap(web.port), "HAProxy": Tap(proxy.port)}
        for tap in taps.values():
            await tap.start()
            stack.push_async_callback(tap.stop)
        text = _CONFIG.format(issuer=backdrop.server.issuer, nginx=taps["nginx"].port, haproxy=taps["HAProxy"].port)
        process = await asyncio.to_thread(stack.enter_context, Process(folder, text))
        await asyncio.to_thread(process.sign_in, backdrop, "alice", "session-alice")
        running = Run(int(process.proxy.rpartition(":")[2]), backdrop, seed)
        log = NginxLog(folder / "nginx.log")
        began = time.monotonic()
        for at in range(first, first + count, BATCH):
            try:
                await running.batch(at, min(at + BATCH, first + count))
            except OSError as error:
                running.find(f"the sidecar takes no connection: {error!r}")
            await _compare(running, taps, backend, log)
            if (ended := process.process.poll()) is not None:
                running.find(f"the sidecar ended with {ended}: {process.log.read_bytes()[-2000:]!r}")
                break
            if at // BATCH % 10 == 0 or running.found:
                _say(running, process, time.monotonic() - began)
        await _afterwards(running, process)
        _say(running, process, time.monotonic() - began)
        return running


async def _compare(running: Run, taps: dict[str, Tap], backend: Backend, log: NginxLog) -> None:
    await asyncio.sleep(0.3)  # what is on its way arrives
    for name, seen in (("nginx", log.read()), ("HAProxy", dict(backend.seen))):
        for text in differences(name, taps[name].streams, seen):
            running.find(text)
        running.forwarded += sum(len(h11_requests(bytes(data)).requests) for data in taps[name].streams.values())
        taps[name].hang_up()
    for error in backend.broken:
        running.find(f"HAProxy passed on what h11 refuses: {error}")
    backend.seen.clear()
    backend.broken.clear()
    await asyncio.sleep(0.05)
    log.read()


async def _afterwards(running: Run, process: Process) -> None:
    """Nothing is left, nothing was said of a fault, no token is in the log."""
    if process.process.poll() is None:
        end = time.monotonic() + 20
        while (left := _sockets(process.process.pid)) > 12 and time.monotonic() < end:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.2)
        if left > 12:
            running.find(f"{left} sockets are left open")
        if await asyncio.to_thread(process.terminate):
            running.find("the sidecar does not end with 0")
    text = process.log.read_bytes() + process.out.read_bytes()
    if any(canary in text for canary in (*running.canaries, b"session-alice")):
        running.find("a token or a session is in the log")
    if b"Traceback" in text or b"an exchange failed" in text:
        running.find(
            "the log tells of a fault: " + text[text.find(b"Traceback") - 500 :][:3000].decode("utf-8", "replace")
        )


def _sockets(pid: int) -> int:
    found = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            found += str(Path(entry.path).readlink()).startswith("socket:")
        except FileNotFoundError:
            continue
    return found


def _say(running: Run, process: Process, seconds: float) -> None:
    status = Path(f"/proc/{process.process.pid}/status")
    rss = (
        next((line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmRSS")), "0")
        if status.exists()
        else "0"
    )
    how = "compiled" if is_compiled() else "interpreted"
    print(
        f"{running.sent} cases in {seconds:.0f} s ({running.sent / seconds:.0f}/s, {how}), {running.good} good requests between, "
        f"{running.forwarded} requests forwarded and compared, sidecar {int(rss) // 1024} MB, {len(running.found)} found",
        flush=True,
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="fuzz.sockets", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if not (NGINX and HAPROXY):
        print("needs nginx and haproxy")
        return 2
    processes.DEADLINE = 120.0  # for the start: a long run gives way to whatever else the machine does
    with tempfile.TemporaryDirectory() as folder:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the servers are ended too
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            running = runner.run(run(arguments.count, arguments.seed, Path(folder), first=arguments.first))
    return 1 if running.found else 0


if __name__ == "__main__":
    sys.exit(main())
