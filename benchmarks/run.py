"""Measures the sidecar and its peers side by side: `python -m benchmarks.run`, or `make bench`.

All proxies are up at once and are loaded one at a time, in turn, round after round, each round from another start, so
that a machine that slows down or speeds up does so for all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine
from benchmarks.command import enter, names, numbers
from benchmarks.fleet import fleet
from benchmarks.load import Load, write_requests
from benchmarks.measure import Sample, measure, stage
from benchmarks.peers import PEERS, USUAL
from benchmarks.places import RESULTS
from benchmarks.progress import say
from benchmarks.report import Case, Report, markdown
from benchmarks.scene import varied

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.fleet import Running
    from benchmarks.scene import Request, Scene

Key = tuple[bool, int, str]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--peers", type=names, default=USUAL, help=f"of {','.join(PEERS)}")
    parser.add_argument("--sizes", type=numbers, default=[170, 65536, 1048576], help="bytes of the bodies")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--sessions", type=int, default=100, help="users that the load cycles through")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement, after 1 s of warm-up")
    parser.add_argument("--tls", action="store_true", help="the same again with TLS to the upstream")
    parser.add_argument("--absolute", action="store_true", help="requests in absolute form, as HTTP_PROXY clients send")
    parser.add_argument("--same-heads", action="store_true", help="without X-Request-Id: heads repeat themselves")
    parser.add_argument(
        "--pin", action="store_true", help="proxies on the first CPU, wrk and the upstream on the others"
    )
    parser.add_argument("--quick", action="store_true", help="170 bytes, 2 rounds of 1 s: to see that it works")
    parser.add_argument("--json", type=Path, default=RESULTS / "latest.json", help="where the samples go")
    found = parser.parse_args(arguments)
    if found.quick:
        found.sizes, found.rounds, found.seconds = [170], 2, 1
    return found


def _rotated(running: tuple[Running, ...], by: int) -> tuple[Running, ...]:
    at = by % len(running) if running else 0
    return running[at:] + running[:at]


def _load(proxy: Running, scene: Scene, size: int, *, same: bool) -> tuple[Request, ...]:
    return proxy.requests(scene, f"/{size}") if same else varied(proxy.requests(scene, f"/varied/{size}"))


def _rounds(
    running: tuple[Running, ...], scene: Scene, wanted: argparse.Namespace
) -> Iterator[tuple[int, Running, Sample]]:
    for size in wanted.sizes:
        for number in range(wanted.rounds):
            for proxy in _rotated(running, number):
                path = scene.directory / f"{proxy.peer.name}-{size}.requests"
                write_requests(path, _load(proxy, scene, size, same=wanted.same_heads), absolute=wanted.absolute)
                sample = measure(proxy, Load(wanted.connections, wanted.seconds, path))
                say(
                    f"{'tls' if scene.tls else 'plain'} {size} B, round {number + 1}/{wanted.rounds},"
                    f" {proxy.peer.name}: {sample.cpu_us:.1f} µs, {sample.rps:,.0f}/s, p99 {sample.p99_ms:.2f} ms"
                    + (f", FAILED: {sample.kinds}" if sample.failures else "")
                )
                yield size, proxy, sample


def compare(wanted: argparse.Namespace) -> Report:
    """The whole comparison that the options ask for."""
    before = machine.describe()
    samples: dict[Key, list[Sample]] = defaultdict(list)
    versions: dict[str, str] = {}
    missing: dict[str, dict[str, str]] = {}
    with stage("compare", wanted.sizes, wanted.sessions, pin=wanted.pin) as (plain, secure):
        for scene in (plain, secure) if wanted.tls else (plain,):
            with fleet([PEERS[name] for name in wanted.peers], scene, wanted.sizes, absolute=wanted.absolute) as found:
                versions |= found.versions
                missing["tls" if scene.tls else "plain"] = found.missing
                for name, why in found.missing.items():
                    say(f"not measured: {name}: {why}")
                for size, proxy, sample in _rounds(found.running, scene, wanted):
                    samples[scene.tls, size, proxy.peer.name].append(sample)
    order = [(tls, size, name) for tls in (False, True) for size in wanted.sizes for name in wanted.peers]
    cases = tuple(Case(*key, tuple(samples[key])) for key in order if samples.get(key))
    shown = {
        name: getattr(wanted, name)
        for name in ("sizes", "connections", "sessions", "rounds", "seconds", "same_heads", "absolute", "pin")
    }
    titles = {name: PEERS[name].title for name in wanted.peers}
    return Report(before, shown, titles, versions, missing, cases)


def main() -> int:
    wanted = options()
    report = compare(wanted)
    wanted.json.parent.mkdir(parents=True, exist_ok=True)
    wanted.json.write_text(report.to_json())
    print(markdown(report))
    return 0 if report.cases else 1


if __name__ == "__main__":
    sys.exit(enter(main))
