"""The way out to a provider: how many at once, how many in a second, and who goes first."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.gate import WINDOW, Gate, Urgency

if TYPE_CHECKING:
    from collections.abc import Callable


class Timeless(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer as soon as nothing else is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.jumped = 0.0

    def time(self) -> float:
        return self.jumped

    def _run_once(self) -> None:
        if not self._ready:  # type: ignore[attr-defined]
            timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
            self.jumped = max(self.jumped, min(timers, default=0.0))
        super()._run_once()  # type: ignore[misc]


def timeless(work: Callable[[], Any]) -> Any:
    """Run `work()` where waiting takes no time."""
    with asyncio.Runner(loop_factory=Timeless) as runner:
        return runner.run(work())


class Log:
    """Requests through one gate: when each began, by name, and how many were under way at most."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.began: list[tuple[str, float]] = []
        self.under_way = self.most = 0

    async def send(self, name: str, urgency: Urgency | None = None, takes: float = 0.0) -> None:
        async with self.gate.turn(urgency):
            self.began.append((name, asyncio.get_running_loop().time()))
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(takes)
            self.under_way -= 1

    @property
    def names(self) -> str:
        return "".join(name for name, _ in self.began)


def patient() -> Urgency:
    return Urgency(urgent=False)


def most_in_a_second(times: list[float]) -> int:
    """Return the most that began within any second."""
    window: deque[float] = deque()
    most = 0
    for time in sorted(times):
        window.append(time)
        while window[0] <= time - WINDOW + 1e-6:
            window.popleft()
        most = max(most, len(window))
    return most


def test_no_second_has_more_than_the_limit() -> None:
    """[RF-10] [IDP-18] Two thousand at once go at the rate of the limit, whatever second one looks at."""

    async def work() -> Log:
        log = Log(Gate(64, 100))
        await asyncio.gather(*(log.send("a", takes=0.05) for _ in range(2000)))
        return log

    log = timeless(work)
    assert most_in_a_second([time for _, time in log.began]) == 100
    assert max(time for _, time in log.began) == pytest.approx(19, abs=1)
    assert log.most <= 64


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 3), st.floats(0, 2), st.floats(0.01, 4)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 8),
)
def test_limits_hold_and_nobody_is_forgotten(
    requests: list[tuple[bool, float, float, float]], at_once: int, per_second: int
) -> None:
    """Whoever comes, is hurried or gives up: both limits hold, and who stays gets a turn."""

    async def work() -> tuple[Log, Gate, int]:
        gate = Gate(at_once, per_second)
        log = Log(gate)
        served = 0

        async def one(urgent: bool, begins: float, takes: float, gives_up: float) -> None:
            nonlocal served
            await asyncio.sleep(begins)
            urgency = Urgency(urgent=urgent)
            asyncio.get_running_loop().call_later(begins / 2, urgency.hurry)
            try:
                async with asyncio.timeout(gives_up if gives_up < 2 else 1000), gate.turn(urgency):
                    log.began.append(("", asyncio.get_running_loop().time()))
                    log.under_way += 1
                    log.most = max(log.most, log.under_way)
                    try:
                        await asyncio.sleep(takes)
                    finally:
                        log.under_way -= 1
                served += 1
            except TimeoutError:
                served += gives_up < 2

        await asyncio.gather(*(one(*request) for request in requests))
        return log, gate, served

    log, gate, served = timeless(work)
    assert served == len(requests)
    assert log.most <= at_once
    assert most_in_a_second([time for _, time in log.began]) <= per_second
    assert (gate._all.under_way, gate._patient.under_way, log.under_way) == (0, 0, 0)


def test_what_a_caller_waits_for_goes_first() -> None:
    """[IDP-18] Whenever it came."""

    async def work() -> str:
        log = Log(Gate(1, 1000))
        tasks = [asyncio.create_task(log.send(name, patient(), takes=0.1)) for name in "abc"]
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(log.send(name, takes=0.1)) for name in "XY"]
        await asyncio.gather(*tasks)
        return log.names

    assert timeless(work) == "aXYbc"


def test_what_is_hurried_overtakes_the_patient() -> None:
    """[IDP-18] A renewal ahead of need that a caller now waits for is urgent from then on."""

    async def work() -> str:
        log, urgency = Log(Gate(1, 1000)), patient()
        tasks = [asyncio.create_task(log.send(name, patient(), takes=0.1)) for name in "abc"]
        tasks.append(asyncio.create_task(log.send("Z", urgency, takes=0.1)))
        await asyncio.sleep(0.01)
        urgency.hurry()
        await asyncio.gather(*tasks)
        return log.names

    assert timeless(work) == "aZbc"


def test_patient_requests_leave_half_of_both_limits_to_others() -> None:
    """A caller never waits behind work that nobody waits for."""

    async def work() -> tuple[int, int, float]:
        gate = Gate(8, 10)
        log, urgent = Log(gate), Log(gate)
        tasks = [asyncio.create_task(log.send("a", patient(), takes=5)) for _ in range(40)]
        await asyncio.sleep(0.5)
        await urgent.send("X")
        await asyncio.gather(*tasks)
        return log.most, most_in_a_second([time for _, time in log.began]), urgent.began[0][1]

    assert timeless(work) == (4, 4, 0.5)


def test_expected_wait_follows_from_those_who_wait_and_the_rate() -> None:
    """[IDP-18] Whoever cannot be served in time is told so at once, and when to come again."""

    async def work() -> tuple[float, float]:
        gate = Gate(1, 10)
        tasks = [asyncio.create_task(Log(gate).send("a", takes=0.01)) for _ in range(31)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        crowded = gate.expected_wait()
        await asyncio.gather(*tasks)
        return crowded, gate.expected_wait()

    assert timeless(work) == (3.0, 0.0)


@pytest.mark.parametrize("urgent", [True, False])
def test_turn_that_comes_to_one_who_has_just_left_goes_to_the_next(urgent: bool) -> None:
    """Cancelled between the turn and the taking of it: nothing of either limit is lost with it."""

    async def work() -> tuple[str, list[tuple[int, int]]]:
        gate = Gate(2, 1000)
        log = Log(gate)
        async with gate.turn(Urgency(urgent=urgent)), gate.turn():
            leaving = asyncio.create_task(log.send("a", Urgency(urgent=urgent)))
            await asyncio.sleep(0.01)
        leaving.cancel()  # its turn has come, in this very moment
        await asyncio.wait([leaving])
        await asyncio.gather(*(log.send(name, Urgency(urgent=urgent), takes=0.1) for name in "bc"))
        return log.names, [(side.under_way, side.called) for side in (gate._all, gate._patient)]

    assert timeless(work) == ("bc", [(0, 0), (0, 0)])


def test_turn_that_comes_to_one_who_is_hurried_then_is_an_urgent_one() -> None:
    """Hurried between the turn and the taking of it: the patient ones get their part of the limits back."""

    async def work() -> tuple[list[str], list[tuple[int, int]]]:
        gate, urgency = Gate(2, 1000), patient()
        log = Log(gate)
        async with gate.turn(patient()):
            hurried = asyncio.create_task(log.send("a", urgency, takes=0.1))
            await asyncio.sleep(0.01)
        urgency.hurry()
        await log.send("b", patient(), takes=0.01)
        await hurried
        return sorted(log.names), [(side.under_way, side.called) for side in (gate._all, gate._patient)]

    assert timeless(work) == (["a", "b"], [(0, 0), (0, 0)])
