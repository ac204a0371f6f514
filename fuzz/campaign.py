"""A run over many cases in one process, and what becomes of the few that fail: made small, named, saved."""

from __future__ import annotations

import gc
import hashlib
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fuzz import admin, provider
from fuzz.judge import problems
from fuzz.mutate import make
from fuzz.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fuzz.case import Case

RENEWED = 2_000  # cases after which a process begins anew: what is remembered of headers is part of what is tested
MOST_TRIALS = 500  # of making a case smaller


class Finding(NamedTuple):
    """A case that breaks a promise."""

    number: int
    case: Case
    problems: tuple[str, ...]

    def save(self, folder: Path) -> Path:
        """Write the case to a file of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        text = self.case.dump()
        path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        path.write_text(text + "\n", "utf-8")
        return path


class Outcome(NamedTuple):
    """What a run did, and how often what happened in it."""

    cases: int = 0
    tally: Counter[str] = Counter()  # noqa: RUF012 - never changed
    findings: tuple[Finding, ...] = ()

    def plus(self, other: Outcome) -> Outcome:
        """Return both in one."""
        return Outcome(self.cases + other.cases, self.tally + other.tally, self.findings + other.findings)


class Stage(Protocol):
    """Where cases are played one after the other, by one process that is alone with its event loop."""

    tally: Counter[str]

    def problems(self, case: Case) -> list[str]:
        """Play a case; return what is wrong with the outcome."""

    def close(self) -> None:
        """Leave the loop."""


class Target(NamedTuple):
    """What is fuzzed: how its cases are made, and where they are played."""

    make: Callable[[int, int], Case]
    stage: Callable[[], Stage]


class Wire:
    """The data path."""

    def __init__(self) -> None:
        self.tally: Counter[str] = Counter()
        self._world = World()

    def problems(self, case: Case) -> list[str]:
        """Play a case in this world."""
        world = self._world
        found = problems(world, case)
        good = sum(b"session-good" in exchange.head.all(b"x-session-id") for exchange in world.begun)
        self.tally["requests taken"] += len(world.begun) - good
        self.tally["forwarded whole"] += sum(len(peer.strict.requests) for peer in world.peers) - good
        self.tally["upstream responses"] += sum(len(peer.played) for peer in world.peers)
        self.tally["good requests between"] += good
        return found

    def close(self) -> None:
        """Leave the loop."""
        self._world.close()


TARGETS = {
    "wire": Target(make, Wire),
    "admin": Target(admin.make, admin.Door),
    "provider": Target(provider.make, provider.Exchanges),
}


def campaign(target: str, seed: int, first: int, end: int) -> Outcome:
    """Play the cases from `first` up to `end`; each process has to be alone with its event loop."""
    gc.set_threshold(50_000)
    parent = os.getppid()
    made, stage = TARGETS[target].make, TARGETS[target].stage()
    tally: Counter[str] = Counter()
    findings = []
    for number in range(first, end):
        case = made(seed, number)
        found = stage.problems(case)
        if found or number % RENEWED == RENEWED - 1 or number == end - 1:
            tally += stage.tally
            stage.close()
            if found:
                findings.append(Finding(number, smaller(TARGETS[target], case, found), tuple(found)))
            stage = TARGETS[target].stage()
        if os.getppid() != parent:
            sys.exit("whoever asked for this has gone")
    stage.close()
    return Outcome(end - first, tally, tuple(findings))


def smaller(target: Target, case: Case, found: list[str]) -> Case:
    """Return the smallest case like `case` that simple cuts lead to, with the same first problem."""
    kind, trials = found[0][:24], MOST_TRIALS
    shrunk = True
    while shrunk and trials > 0:
        shrunk = False
        for candidate in _cuts(case):
            trials -= 1
            stage = target.stage()
            again = stage.problems(candidate)
            stage.close()
            if again and again[0][:24] == kind:
                case, shrunk = candidate, True
                break
            if trials <= 0:
                break
    return case


def _cuts(case: Case) -> Iterator[Case]:
    for at in range(len(case.answers)):
        yield case._replace(answers=case.answers[:at] + case.answers[at + 1 :])
    for steps in _shorter(case.caller):
        yield case._replace(caller=steps)
    for at, answer in enumerate(case.answers):
        for steps in _shorter(answer.steps):
            yield case._replace(answers=(*case.answers[:at], answer._replace(steps=steps), *case.answers[at + 1 :]))


def _shorter(steps: tuple[bytes | str, ...]) -> Iterator[tuple[bytes | str, ...]]:
    for at, step in enumerate(steps):
        yield steps[:at] + steps[at + 1 :]
        if at and isinstance(step, bytes) and isinstance(previous := steps[at - 1], bytes):
            yield (*steps[: at - 1], previous + step, *steps[at + 1 :])
    for at, step in enumerate(steps):
        if isinstance(step, bytes):
            size = len(step) // 2
            while size:
                for cut in range(0, len(step), size):
                    yield (*steps[:at], step[:cut] + step[cut + size :], *steps[at + 1 :])
                size //= 2
