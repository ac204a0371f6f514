"""Which losses of a session are of the one kind that is allowed: pure judgements of what was written down.

A session may be lost in one way only. A process was stopped or killed after it had sent a refresh token and before the
store had taken what came back; its lock ended with its lease; another process spent the same refresh token, which
counts as reuse. A reuse is held to each part of that: who asked, when it was harmed, whether the store had the result
already, and whether the other waited for the lease. Times are monotonic, which processes share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SLACK = 2.0
"""Seconds between an answer's arrival and the end of the store's write, on a machine that does much else."""


class Harm(NamedTuple):
    """An instance was killed at `at`, or stopped and went on at `until`."""

    at: float
    instance: int
    until: float = 0.0


class Asked(NamedTuple):
    """An instance was about to send a refresh token."""

    at: float
    instance: int


class Traces(NamedTuple):
    """What all instances wrote down: who asked with which refresh token, when which access token was stored first."""

    asked: dict[str, list[Asked]]
    stored: dict[str, float]


class Reuse(NamedTuple):
    """A refresh token that was sent twice. `bought`: the access token of its first use.

    `acknowledged`: the upstream had seen what the first use had brought, or a later rotation.
    """

    subject: str
    rotation: int
    token: str
    bought: str
    rotated: float
    again: float
    acknowledged: bool


class Bounds(NamedTuple):
    """`lease` of the locks; `late` is the longest time between rotation and answer.

    `one_writer`: who is stopped may hold the lock of the store's file, and nobody can store anything until it goes on.
    """

    lease: float
    late: float
    one_writer: bool = False


def read(lines: Iterable[tuple[int, str]]) -> Traces:
    """Return what lines of trace files say, each with its instance's number."""
    traces = Traces({}, {})
    for instance, line in lines:
        what, token, at = line.split(" ")
        if what == "asked":
            traces.asked.setdefault(token, []).append(Asked(float(at), instance))
        else:
            traces.stored[token] = min(float(at), traces.stored.get(token, float("inf")))
    return traces


def fault(reuse: Reuse, traces: Traces, harms: Iterable[Harm], bounds: Bounds) -> str:
    """Return why a reuse is not of the kind that is allowed; empty where it is."""
    if reuse.acknowledged:
        return "an acknowledged refresh token was lost"
    if traces.stored.get(reuse.bought, reuse.again) < reuse.again:
        return "a refresh token that the store had taken was lost"
    asked = sorted(traces.asked.get(reuse.token, []))
    spender = next((one for one in asked if _harmed(one, reuse, harms, bounds)), None)
    if spender is None:
        return "a refresh token was sent twice although nobody was harmed"
    others = [one.at for one in asked if one is not spender and one.at <= reuse.again]
    if others and max(others) < spender.at + bounds.lease / 2:
        return "a refresh token was sent twice at a time: the lock did not hold"
    return ""


def _harmed(one: Asked, reuse: Reuse, harms: Iterable[Harm], bounds: Bounds) -> bool:
    """Say whether it may have spent the token, and was harmed before it could have stored what came of it."""
    latest = min(reuse.again, _stored_by(one, reuse, harms, bounds))
    return one.at <= reuse.rotated and any(
        harm.instance == one.instance and one.at <= harm.at <= latest for harm in harms
    )


def _stored_by(one: Asked, reuse: Reuse, harms: Iterable[Harm], bounds: Bounds) -> float:
    """Return when the result must have been stored, unless its holder was harmed."""
    latest = reuse.rotated + bounds.late + SLACK
    if bounds.one_writer:
        for stop in sorted(harm for harm in harms if harm.until > reuse.rotated and harm.instance != one.instance):
            if stop.at <= latest:
                latest = max(latest, stop.until + bounds.late + SLACK)
    return latest


def unaccounted(losses: Mapping[str, int], reuses: Iterable[Reuse]) -> list[str]:
    """Return the users who were signed out more often than a refresh token of theirs was sent twice, or less often."""
    counted: dict[str, int] = {}
    for reuse in reuses:
        counted[reuse.subject] = counted.get(reuse.subject, 0) + 1
    return [
        f"{user} was signed out {losses.get(user, 0)} times, with {counted.get(user, 0)} reuses"
        for user in sorted({*losses, *counted})
        if losses.get(user, 0) != counted.get(user, 0)
    ]
