"""What each stage of an exchange costs the processor, in its own instructions: `python -m benchmarks.stages`.

The compiled forwarding path between two transports without a network, under valgrind's callgrind: two runs, of which
one carries more exchanges, so that what is the same in both (imports, sign-ins) falls out.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks import compiled
from benchmarks.command import enter
from benchmarks.install import NotAvailableError, debian
from benchmarks.places import BUILD, ROOT
from benchmarks.report import table

FEW, MANY = 500, 2500
ALL = "PROGRAM TOTALS"
STAGES = {  # as mypyc and llhttp name them, with what they call
    "the caller's connection, in all": "downstream___Downstream___data_received",
    "· reading the request's head": "head___parse_request",
    "· route, caller, token, counters, and the request as it goes on": "proxy___Proxy___begin",
    "the upstream's connection, in all": "upstream___Upstream___data_received",
    "· reading the response's head": "head___parse_response",
    "· the response as it goes on": "upstream___Upstream____pass_on",
    "· the end of the exchange, counters, the pool": "upstream___Upstream____finish",
    "in both heads: finding the lines that speak": "hearing___Hearing___hear",
    "in both heads: llhttp": "llhttp_execute",
}
_LINE = re.compile(r"\s*([\d,]+) \([ \d.]+%\)\s+(\S.*)")


async def _exchanges(count: int) -> None:
    from tests.support.cost import messages, whole  # noqa: PLC0415 - here, for the process that is counted
    from tests.support.credentials import Bench  # noqa: PLC0415

    bench = Bench()
    pair = await whole(bench)
    for number in range(count):
        pair.exchange(*messages(number))
    await bench.broker.close(1)


def _counted(count: int, directory: Path, environment: dict[str, str]) -> Counter[str]:
    """Instructions by function, those that it calls included."""
    found = directory / f"{count}.callgrind"
    run = [debian("valgrind", "valgrind"), "--tool=callgrind", f"--callgrind-out-file={found}"]
    done = subprocess.run(
        [*run, sys.executable, "-m", "benchmarks.stages", str(count)],
        check=False, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600,
    )  # fmt: skip
    if done.returncode:
        raise NotAvailableError(f"valgrind: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    told = subprocess.run(
        ["callgrind_annotate", "--threshold=100", "--inclusive=yes", str(found)],
        check=True, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    counts = Counter[str]()
    for line in told.splitlines():
        if match := _LINE.match(line):
            counts[match[2]] = max(counts[match[2]], int(match[1].replace(",", "")))
    return counts


def main() -> int:
    """Count, and print the table; with a number, carry that many exchanges."""
    if len(sys.argv) > 1:
        asyncio.run(_exchanges(int(sys.argv[1])))
        return 0
    environment = {**os.environ, **compiled.environment(compiled.install(BUILD / "compiled"), ROOT)}
    with tempfile.TemporaryDirectory() as made:
        few, many = (_counted(count, Path(made), environment) for count in (FEW, MANY))

    def each(name: str) -> int:
        return max((many[key] - few[key] for key in many if name in key), default=0) // (MANY - FEW)

    whole = each(ALL)
    rows = [[stage, f"{each(name):,}", f"{each(name) / whole:.0%}"] for stage, name in STAGES.items()]
    print(
        table(("stage", "instructions", "share"), [*rows, ["all, with the transports that stand in", f"{whole:,}", ""]])
    )
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))
