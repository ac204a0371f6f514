"""npm's oidc-provider in a process of its own: installed from its lock file, started, listened to.

What it tells is kept as it comes; what it means is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from soak.fleet import START, _subordinate

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE = Path(__file__).parent / "npm"
INSTALLED = Path(__file__).parents[2] / "build" / "oidc-provider"
CLIENT = ("legacy-app", "soak-client-secret-0123456789abcdef")
API = ("soak-api", "soak-api-secret-0123456789abcdef")


class Resource(NamedTuple):
    """A resource of RFC 8707: its scope, how its access tokens are read, and whether applications use it themselves."""

    name: str
    scope: str
    format: str
    app: bool = False


RESOURCES = {
    "profiles": Resource("https://profiles.example", "profiles.read", "opaque"),
    "orders": Resource("https://orders.example", "orders.read", "jwt"),
    "stats": Resource("https://stats.example", "stats.read", "jwt", app=True),
}
"""By the name of the route. Opaque tokens are introspected at every request, JWTs verified by the provider's keys."""


class Event(NamedTuple):
    """One thing that the provider told, with its time (seconds since the epoch)."""

    name: str
    at: float
    members: Mapping[str, Any]

    def __getitem__(self, member: str | int) -> Any:  # type: ignore[override]
        return self.members[member] if isinstance(member, str) else tuple(self)[member]


def missing() -> str:
    """Return which program is not there, "" where nothing is missing."""
    return next((name for name in ("node", "npm", "redis-server") if shutil.which(name) is None), "")


def installed() -> bool:
    """Say whether the package is installed as the lock file wants it."""
    stamp = INSTALLED / "node_modules" / ".lock"
    return stamp.exists() and stamp.read_text() == _lock()


def install() -> None:
    """Install the package under build/, by the hashes of the lock file; needs npm's registry once."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    for file in SOURCE.iterdir():
        shutil.copy(file, INSTALLED)
    if not installed():
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, cwd=INSTALLED, check=True, stdout=subprocess.DEVNULL)
        (INSTALLED / "node_modules" / ".lock").write_text(_lock())


def _lock() -> str:
    return hashlib.sha256((SOURCE / "package-lock.json").read_bytes()).hexdigest()


class Issuer:
    """The running provider. `events` is everything it told so far."""

    def __init__(self, log: Path) -> None:
        self.events: list[Event] = []
        self.url = ""
        self._log = log
        self._listening = asyncio.Event()

    async def start(self, public_url: str, life: int) -> None:
        """Start it for a sidecar at `public_url`, with access tokens of `life` seconds."""
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                "node", str(INSTALLED / "server.mjs"),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, preexec_fn=_subordinate,
            )  # fmt: skip
        self._listener = asyncio.create_task(self._listen())
        (client, secret), (api, api_secret) = CLIENT, API
        resources = {one.name: {"scope": one.scope, "format": one.format, "app": one.app} for one in RESOURCES.values()}
        await self._say({
            "client": {"id": client, "secret": secret}, "api": {"id": api, "secret": api_secret},
            "resources": resources, "life": life, "publicUrl": public_url,
        })  # fmt: skip
        await asyncio.wait_for(self._listening.wait(), START)
        self.url = self.events[0]["issuer"]

    async def revoke(self, subject: str) -> None:
        """End every grant of a user, as an administrator would."""
        await self._say({"command": "revoke", "subject": subject})

    def told(self, name: str, **members: Any) -> list[Event]:
        """Return the events of this name whose members are these."""
        return [one for one in self.events if one.name == name and members.items() <= one.members.items()]

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._listener

    async def _say(self, document: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(document).encode() + b"\n")
        await self._process.stdin.drain()

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        file = self._log.with_suffix(".events").open("wb", buffering=0)  # for SOAK_KEEP=1
        while line := await self._process.stdout.readline():
            file.write(line)
            members = json.loads(line)
            self.events.append(Event(members.pop("event"), members.pop("at"), members))
            self._listening.set()
