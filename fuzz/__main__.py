"""`python -m fuzz [wire|admin|provider]`: many cases in process; `--replay FILE`: one that was saved.

`python -m fuzz.sockets` is the other half, `python -m fuzz fleet` plays instances on one store in simulated time.

Exit code 1 where something was found; each finding is printed, made small and saved below `--keep`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from fuzz import fleet
from fuzz.campaign import TARGETS, Outcome, campaign
from fuzz.case import load
from fuzz.judge import problems
from fuzz.world import World
from sidecar.build import is_compiled

SHARE = 5_000  # cases that one process does before it reports


def main() -> int:
    """Run what the command line asks for."""
    if sys.argv[1:2] == ["fleet"]:
        return fleet.main(sys.argv[2:])
    arguments = _arguments()
    if arguments.replay:
        return _replay(arguments.target, arguments.replay)
    total = Outcome()
    began, shown = time.monotonic(), time.monotonic()
    shares = [
        (arguments.target, arguments.seed, at, min(at + SHARE, arguments.first + arguments.count))
        for at in range(arguments.first, arguments.first + arguments.count, SHARE)
    ]
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        for outcome in pool.map(campaign, *zip(*shares, strict=True)):
            total = total.plus(outcome)
            for finding in outcome.findings:
                print(f"\nFOUND in case {finding.number} of seed {arguments.seed}:")
                print("\n".join(finding.problems)[:3000])
                print("saved:", finding.save(arguments.keep), flush=True)
            if time.monotonic() > shown + 10:
                shown = time.monotonic()
                _say(total, shown - began)
            if len(total.findings) >= arguments.most:
                print("enough found: stopping")
                pool.shutdown(cancel_futures=True)
                break
    _say(total, time.monotonic() - began)
    return 1 if total.findings else 0


def _say(total: Outcome, seconds: float) -> None:
    happened = "".join(f"{count} {what}, " for what, count in total.tally.items())
    how = "compiled" if is_compiled() else "interpreted"
    rate = f"{total.cases} cases in {seconds:.0f} s ({total.cases / seconds:.0f}/s, {how})"
    print(f"{rate}: {happened}{len(total.findings)} found", flush=True)


def _replay(target: str, path: Path) -> int:
    case = load(path)
    print(case.dump())
    if target != "wire":
        found = TARGETS[target].stage().problems(case)
        print("\n".join(found) or "nothing wrong")
        return 1 if found else 0
    world = World()
    found = problems(world, case)
    for peer in world.peers:
        print(f"to {peer.origin} ({peer.transport.ended}): {bytes(peer.transport.written)!r}")
        for played in peer.played:
            print(f"  it said {bytes(played.sent)!r}{', then closed' if played.ended else ''}")
    print("\n".join(found) or "nothing wrong")
    return 1 if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=sorted(TARGETS), default="wire", help="what is fuzzed (wire)")
    parser.add_argument("--count", type=int, default=1_000_000, help="cases (default: one million)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--most", type=int, default=20, help="findings after which it stops")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where findings are saved")
    parser.add_argument("--replay", type=Path, help="play one saved case and say what happens")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
