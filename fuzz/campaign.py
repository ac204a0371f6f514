"""A run over many cases in one process, and what becomes of the few that fail: made small, named, saved."""

from __future__ import annotations

import gc
import hashlib
import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from fuzz.judge import problems
from fuzz.mutate import make
from fuzz.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
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


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    cases: int = 0
    begun: int = 0
    forwarded: int = 0
    responses: int = 0
    good: int = 0
    findings: tuple[Finding, ...] = ()

    def plus(self, other: Outcome) -> Outcome:
        return Outcome(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def campaign(seed: int, first: int, end: int) -> Outcome:
    """Play the cases from `first` up to `end`; each process has to be alone with its event loop."""
    gc.set_threshold(50_000)
    parent = os.getppid()
    total = Outcome(cases=end - first)
    world = World()
    begun = forwarded = responses = good = 0
    findings = []
    for number in range(first, end):
        case = make(seed, number)
        found = problems(world, case)
        mine = [exchange for exchange in world.begun if b"session-good" not in exchange.head.all(b"x-session-id")]
        begun += len(mine)
        good += len(world.begun) - len(mine)
        for peer in world.peers:
            forwarded += len(peer.strict.requests)
            responses += len(peer.played)
        if found:
            findings.append(Finding(number, smaller(case, found), tuple(found)))
        if os.getppid() != parent:
            sys.exit("whoever asked for this has gone")
        if found or number % RENEWED == RENEWED - 1:
            world.close()
            world = World()
    world.close()
    return replace(
        total, begun=begun, forwarded=forwarded - good, responses=responses, good=good, findings=tuple(findings)
    )


def smaller(case: Case, found: list[str]) -> Case:
    """Return the smallest case like `case` that simple cuts lead to, with the same first problem."""
    kind, trials = found[0][:24], MOST_TRIALS
    shrunk = True
    while shrunk and trials > 0:
        shrunk = False
        for candidate in _cuts(case):
            trials -= 1
            world = World()
            again = problems(world, candidate)
            world.close()
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
