"""`python -m fuzz fleet`: episodes of a simulated fleet, three instances on one store; what each mix means: fleet_mix.

Exit code 1 where something was found; each violation is printed with its seed and what happened to the session before.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from fuzz.fleet_mix import Mix
from fuzz.fleet_play import Ended, play

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SHOWN = 4  # violations of one episode


def main(command_line: Sequence[str]) -> int:
    """Run what the command line asks for."""
    arguments = _parser().parse_args(command_line)
    mix = Mix(**{field.name: getattr(arguments, field.name) for field in fields(Mix)})
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, context) as pool:
        return report(pool.map(partial(play, mix), seeds), arguments.most)


def report(episodes: Iterable[Ended], most: int) -> int:
    """Print what came of the episodes, in their order, up to `most` that broke a rule."""
    began = time.monotonic()
    tally: Counter[str] = Counter()
    excused: Counter[str] = Counter()
    histories, played, failed = hashlib.sha256(), 0, 0
    for episode in episodes:
        tally += episode.tally
        excused += episode.excused
        histories.update(episode.history.encode())
        played += 1
        failed += bool(episode.violations)
        _show(episode)
        if failed >= most:
            print("enough found: stopping")
            break
    print(f"{played} episodes in {time.monotonic() - began:.0f} s: {_counts(tally)}, {failed} found")
    if excused:
        print("excused, by what docs/redis.md and docs/soak.md say:", _counts(excused))
    print("history", histories.hexdigest()[:16])
    return 1 if failed else 0


def _show(episode: Ended) -> None:
    for violation in episode.violations[:SHOWN]:
        print(f"\nFOUND with seed {episode.seed}: {violation.rule} at {violation.at:.3f}: {violation.what}")
        print("\n".join(f"  {line}" for line in violation.story), flush=True)


def _counts(tally: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(tally.items()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fuzz fleet", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="episodes (100), each of a seed of its own")
    parser.add_argument("--seed", type=int, default=1, help="the first one's (1)")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--most", type=int, default=5, help="episodes with findings after which it stops (5)")
    usual = Mix()
    for field in fields(Mix):
        value = getattr(usual, field.name)
        if isinstance(value, bool):
            parser.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, default=value)
        else:
            parser.add_argument(f"--{field.name}", type=float, default=value, help=f"({value:g})")
    return parser
