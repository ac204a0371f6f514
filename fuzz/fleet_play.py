"""One episode of a simulated fleet: three real brokers with clocks of their own on one store, and what comes to them.

Users sign in over each other's sessions and out, upstreams refuse tokens, everybody asks everywhere; drawn from the seed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from fuzz.fleet_judge import Judge, Violation
from fuzz.fleet_server import PROVIDERS, Client, Server
from fuzz.fleet_store import EPOCH, Shared, View
from fuzz.simulated import Simulated
from sidecar.credentials.broker import Broker, StillRejectedError
from sidecar.credentials.vault import Vault, generate_key
from sidecar.errors import Refusal
from sidecar.model import APPLICATION, Granted, Identity, Secret, Token, TokenKey, TokenSpec

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Coroutine, Iterator

    from fuzz.fleet_mix import Mix
    from sidecar.credentials.entry import Credential

INSTANCES = 3
SESSIONS = ("s0", "s1", "s2", "s3")
USER = TokenSpec("idp", "https://idp.test", "app", "session", scopes=frozenset({"read"}))
OTHER_ROUTE = replace(USER, scopes=frozenset({"write"}))
OTHER_PROVIDER = replace(USER, provider="other", issuer="https://other.test")
APP = TokenSpec("idp", "https://idp.test", "app", "client_credentials", scopes=frozenset({"stats"}))
SPECS = (USER, OTHER_ROUTE, OTHER_PROVIDER, APP)
PATIENCE = 200.0
CALM = 60.0


class Ended(NamedTuple):
    """What came of an episode."""

    seed: int
    violations: tuple[Violation, ...]
    tally: Counter[str]
    excused: Counter[str]
    history: str  # a hash of all that happened


def play(mix: Mix, seed: int) -> Ended:
    """Play the episode of a seed; the same gives the same history."""
    loop = Simulated()  # type: ignore[abstract]
    began = loop.time()
    judge = Judge(mix, lambda: loop.time() - began)
    with _drawn_from(seed):
        loop.complete(Episode(mix, random.Random(seed), judge).play())
        gc.collect()  # says so where nobody has looked at what a task raised
    for fault in loop.faults:
        judge.escaped(fault.get("exception") or str(fault["message"]))
    return Ended(seed, tuple(judge.violations), judge.tally, judge.excused, judge.history)


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Let the sidecar's own pauses be drawn from the seed too, and let it log nothing."""
    state, silenced = random.getstate(), logging.root.manager.disable
    random.seed(seed)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        random.setstate(state)
        logging.disable(silenced)


class Episode:
    """One fleet, its world, and who uses it."""

    def __init__(self, mix: Mix, rng: random.Random, judge: Judge) -> None:
        self._mix, self._rng, self._judge = mix, rng, judge
        self._server = Server(mix, rng, judge)
        self._store = Shared(mix, rng, judge)
        self._vault = Vault([Secret(generate_key())])
        self._fleet = {f"instance {number}": self._instance() for number in range(INSTANCES)}
        self._numbers = count(1)
        self._busy = {session: asyncio.Lock() for session in SESSIONS}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reasons = 0.0

    def _instance(self) -> Broker:
        off = self._rng.uniform(-self._mix.skew, self._mix.skew)

        def clock() -> float:
            return EPOCH + self._judge.now() + off

        specs = {spec.fingerprint: spec for spec in SPECS}
        clients = {provider: Client(self._server, clock) for provider in PROVIDERS}
        return Broker(specs, clients, View(self._store), self._vault, clock=clock, local=self._mix.local)

    async def play(self) -> None:
        """Let everything happen, then a minute of calm after which all must be served or refused rightly."""
        failover, outage = self._rng.uniform(60, 200), self._rng.uniform(60, 200)
        while self._judge.now() < self._mix.seconds:
            await asyncio.sleep(self._rng.choice([0, 0.01, 0.05, 0.3, 1, 6 if self._rng.random() < 0.1 else 0.1]))
            if self._mix.failovers and self._judge.now() > failover:
                failover = self._judge.now() + self._rng.uniform(40, 150)
                self._store.fail_over()
            if self._mix.outages and self._judge.now() > outage:
                outage = self._judge.now() + self._rng.uniform(60, 300)
                self._store.go_away()
            self._happen()
        await self._calm()

    def _happen(self) -> None:
        rng, chance = self._rng, self._rng.random()
        session, by = rng.choice(SESSIONS), rng.choice(list(self._fleet))
        if chance < 0.03:
            self._start(self._change(session, by, rng.choice(["sign-out", "put", "put", "sign-in", "sign-in"])))
        elif chance < 0.11:
            for every in self._fleet:
                for spec in SPECS:
                    self._start(self._ask(session, every, spec))
        else:
            self._start(self._ask(session, by, rng.choice(SPECS), rejecting=rng.random() < 0.04))

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if error := task.exception():
            self._judge.escaped(error)

    async def _calm(self) -> None:
        self._store.calm = self._server.calm = True
        await asyncio.sleep(CALM)
        while self._tasks:
            await asyncio.wait(self._tasks)
        for session in SESSIONS:
            for by in self._fleet:
                for spec in SPECS:
                    await self._ask(session, by, spec)
        expiries = len(SESSIONS) * 3 + 1
        expiries *= 1 + int((self._judge.now()) / (0.6 * self._mix.life))
        self._judge.requests(self._server.asked.total(), self._reasons + expiries)
        for broker in self._fleet.values():
            await broker.close(5.0)
        await asyncio.sleep(CALM)

    # -- what users do --------------------------------------------------------------------------------------------

    async def _change(self, session: str, by: str, what: str) -> None:
        """Sign somebody in, by the sidecar or by the application, or out; one after the other for each session."""
        async with self._busy[session]:
            user = f"{session}-{next(self._numbers)}"
            life = self._rng.choice([5.0, self._mix.life])
            provider = self._rng.choice(PROVIDERS) if what == "put" else "idp"
            after = {provider: None if what == "sign-out" else user}
            if what != "put":
                after["other"] = None
            eras = {at: self._judge.begin(session, at, whose) for at, whose in after.items()}
            self._judge.note(session, f"{by}: {what} {provider if what == 'put' else ''} of {user} begins")
            said = await self._said(what, self._fleet[by], session, provider, user, life)
            for at, era in eras.items():
                self._judge.end(session, at, era, sure=not said)
            self._judge.note(session, f"{by}: {what} of {user}: {said or 'done'}")
            self._judge.tally[what] += 1
            self._reasons += 3

    async def _said(self, what: str, broker: Broker, session: str, provider: str, user: str, life: float) -> str:
        try:
            if what == "sign-out":
                await broker.sessions.delete(session)
                return ""
            response = self._server.sign_in(user)
            if what == "put":
                await broker.sessions.put(session, provider, {**response, "expires_in": life})
                return ""
            now = broker._clock()
            token = Token(Secret(str(response["access_token"])), now, now + life, frozenset({"read"}))
            granted = Granted(token, Secret(str(response["refresh_token"])))
            name = await broker.sessions.name(session)
            await broker.sessions.open(name, "idp", granted, Identity("https://idp.test", user))
        except Refusal as refusal:
            return refusal.name
        return ""

    async def _ask(self, session: str, by: str, spec: TokenSpec, *, rejecting: bool = False) -> None:
        """Ask for a credential as a request does, and once more where the upstream refuses it."""
        broker, about = self._fleet[by], "" if spec is APP else session
        key = TokenKey(spec.fingerprint, about or APPLICATION)
        asked_at = self._judge.now()
        try:
            at_hand = broker.ready(key, broker._clock())
            credential = at_hand or await asyncio.wait_for(broker.obtain(key), PATIENCE)
            self._served(about, by, spec, credential, asked_at)
            if rejecting:
                asked_at = self._judge.now()
                self._reasons += 1
                credential = await asyncio.wait_for(broker.obtain(key, rejected=credential), PATIENCE)
                self._served(about, by, spec, credential, asked_at)
        except StillRejectedError:
            self._judge.tally["still rejected"] += 1
        except Refusal as refusal:
            if refusal.name == "login_required" and about:
                self._judge.refused(about, spec.provider, asked_at, by)
            else:
                self._judge.tally[refusal.name] += 1
                if self._server.calm and self._judge.now() > self._mix.seconds + CALM:
                    self._judge.stuck(about, f"{refusal.name} at {spec.provider}", by)

    def _served(self, about: str, by: str, spec: TokenSpec, credential: Credential | None, asked_at: float) -> None:
        assert credential is not None
        self._judge.served(about, spec.provider, credential.token.decode(), asked_at, by)
