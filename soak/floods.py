"""Good traffic beside a flood of slow connections: what it waits with and without, and what the flood costs.

    python -m soak.floods                          # 5 000 connections, every kind
    python -m soak.floods --kinds head,reader --connections 9000

Each round measures without the flood, then with it, so that what else the machine does falls on both. Good traffic is
a request each few milliseconds on keep-alive connections, answered by the upstream at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from soak import command
from soak.fleet import HOST, spawn
from soak.flooder import KINDS
from soak.lone import ELSEWHERE, MIB, NAME, lone

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from soak.lone import Lone

REQUEST = f"GET /small HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
ANSWER = 170
PATIENCE = 60.0
QUIET = 0.08  # seconds of CPU in half a second
STILL, SETTLING = 3, 80  # halves of a second
NOISE = 0.005  # seconds: below that, a p99 says more about the machine than about the sidecar


class Sample(NamedTuple):
    """One measurement: latencies in seconds, sorted; failures; the sidecar's CPU seconds for each second."""

    waits: list[float]
    failed: int
    cpu: float
    resident: int
    descriptors: int

    def at(self, share: float) -> float:
        return self.waits[min(len(self.waits) - 1, int(len(self.waits) * share))] if self.waits else float("inf")


async def _ask(port: int, pause: float, until: float, waits: list[float]) -> int:
    """One caller; return how often it failed."""
    failed = 0
    while time.monotonic() < until:
        writer = None
        try:
            reader, writer = await asyncio.open_connection(HOST, port)
            while time.monotonic() < until:
                began = time.monotonic()
                writer.write(REQUEST)
                async with asyncio.timeout(PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(ANSWER)
                waits.append(time.monotonic() - began)
                failed += not head.startswith(b"HTTP/1.1 200")
                await asyncio.sleep(pause)
        except (OSError, EOFError, TimeoutError):
            failed += 1
            await asyncio.sleep(0.05)
        finally:
            if writer:
                writer.close()
    return failed


async def measure(sidecar: Lone, callers: int, pause: float, seconds: float) -> Sample:
    """Send good traffic for a while."""
    waits: list[float] = []
    before, began = sidecar.used(), time.monotonic()
    failed = await asyncio.gather(*(_ask(sidecar.port, pause, began + seconds, waits) for _ in range(callers)))
    after = sidecar.used()
    spent = (after.cpu - before.cpu) / (time.monotonic() - began)
    return Sample(sorted(waits), sum(failed), spent, after.resident, after.descriptors)


@contextlib.asynccontextmanager
async def flood(sidecar: Lone, kind: str, count: int) -> AsyncIterator[None]:
    """Keep a flood going."""
    arguments = [*ELSEWHERE, sys.executable, "-m", "soak.flooder", str(sidecar.port), kind, str(count)]
    flooder = spawn(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert flooder.stdout is not None
    try:
        line = await asyncio.to_thread(flooder.stdout.readline)
        if not line.startswith(b"open"):
            raise RuntimeError("the flood did not begin")
        await _settled(sidecar)
        yield
    finally:
        flooder.kill()
        flooder.wait()
        flooder.stdout.close()


async def _settled(sidecar: Lone) -> None:
    """Wait until all that the flood sent at its start has been taken in."""
    before, still = sidecar.used(), 0
    for _ in range(SETTLING):
        await asyncio.sleep(0.5)
        now = sidecar.used()
        still = still + 1 if now.cpu - before.cpu < QUIET and now.descriptors == before.descriptors else 0
        if still == STILL:
            return
        before = now


async def _gone(sidecar: Lone, descriptors: int) -> bool:
    """Wait until the sidecar has let go of the flood's descriptors."""
    for _ in range(600):
        if sidecar.used().descriptors <= descriptors:
            return True
        await asyncio.sleep(0.05)
    return False


def _row(quiet: list[Sample], loud: list[Sample], count: int) -> dict[str, Any]:
    def middle(samples: list[Sample], share: float) -> float:
        return round(statistics.median(sample.at(share) for sample in samples) * 1000, 2)

    grown = max(sample.resident for sample in loud) - min(sample.resident for sample in quiet)
    return {
        "p50_ms": [middle(quiet, 0.5), middle(loud, 0.5)], "p99_ms": [middle(quiet, 0.99), middle(loud, 0.99)],
        "requests": [sum(len(one.waits) for one in samples) for samples in (quiet, loud)],
        "failed": [sum(one.failed for one in samples) for samples in (quiet, loud)],
        "cpu": [round(statistics.median(one.cpu for one in samples), 3) for samples in (quiet, loud)],
        "grown_mib": round(grown / MIB, 1), "kib_each": round(grown / 1024 / count, 1),
        "descriptors": max(one.descriptors for one in loud),
    }  # fmt: skip


async def one_kind(kind: str, wanted: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Measure one kind of flood on a sidecar of its own."""
    quiet, loud, wrong = [], [], []
    async with lone("soak.flood_side", twice=True, limits=wanted.limits) as (sidecar, _):
        await measure(sidecar, wanted.callers, wanted.pause, min(1.0, wanted.seconds))  # warm
        for _ in range(wanted.rounds):
            quiet.append(await measure(sidecar, wanted.callers, wanted.pause, wanted.seconds))
            async with flood(sidecar, kind, wanted.connections):
                loud.append(await measure(sidecar, wanted.callers, wanted.pause, wanted.seconds))
            if not await _gone(sidecar, quiet[0].descriptors + wanted.callers * 2):
                wrong.append(f"{kind}: {sidecar.used().descriptors} descriptors stay open")
        row = _row(quiet, loud, wanted.connections)
    before, during = row["p99_ms"]
    if during > max(before * wanted.ratio, NOISE * 1000):
        wrong.append(f"{kind}: p99 of good traffic {before} ms, beside the flood {during} ms")
    wrong += [f"{kind}: good requests failed: {row['failed']}"] * any(row["failed"])
    wrong += [f"{kind}: {row['kib_each']} KiB for each connection"] * (row["kib_each"] > wanted.kib)
    command.progress(f"{kind}: {row}")
    return row, wrong


async def run(wanted: argparse.Namespace) -> dict[str, Any]:
    """Every kind after the other."""
    figures: dict[str, Any] = {"connections": wanted.connections}
    failures: list[str] = []
    for kind in wanted.kinds.split(","):
        figures[kind], wrong = await one_kind(kind, wanted)
        failures += wrong
    return {**figures, "failures": {"found": failures}}


if __name__ == "__main__":
    command.NICE = 0  # of lower priority all would wait for the machine's other work, not for the sidecar
    command.main(
        run,
        command.options(
            __doc__ or "",
            kinds=(",".join([*KINDS, "mixed"]), "of floods"),
            connections=(5000, "slow ones"),
            callers=(8, "good ones"),
            pause=(0.005, "seconds between two requests of a good caller"),
            seconds=(4.0, "of each measurement"),
            rounds=(3, "of measurements without and with the flood"),
            ratio=(2.0, "that good traffic's p99 may grow by"),
            kib=(512.0, "that a slow connection may cost"),
            limits=("", "keys of the sidecar's `limits`"),
        ),
    )
