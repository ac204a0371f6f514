"""One sidecar with a sign-in, on the shared store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

from soak.fleet import ADMIN_TOKEN, HOST, START, STEP, free_port, spawn
from soak.oidc_provider.issuer import CLIENT, RESOURCES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COOKIE = "sidecar_session"
CONFIGURATION = """
listeners: [{{bind: "127.0.0.1:{port}"}}]
admin: {{bind: "127.0.0.1:{admin}", token: "{token}"}}
login:
  bind: "127.0.0.1:{login}"
  public_url: "{public}"
  scope: openid offline_access {scopes}
  resource: [{resources}]
  par: require
  params: {{prompt: consent}}  # OpenID Connect Core section 11: without it no refresh token
store: {{url: "{store}", keys: ["{key}"]}}
callers: {{session: [{{cookie: sidecar_session}}]}}
providers:
  idp: {{issuer: "{issuer}", client_id: "{client}", client_secret: "{secret}"}}
routes:
"""
ROUTE = (
    "  - {{name: {name}, match: {{host: {name}.internal}}, upstream: {api}/{name}, as: {who}, "
    "scope: {scope}, resource: {resource}}}\n"
)


class Sidecar:
    """A process of it. `text` gives the members of CONFIGURATION that all instances share."""

    def __init__(self, folder: Path, number: int, text: Mapping[str, str]) -> None:
        self.number = number
        self.port, self.admin, self.login = free_port(), free_port(), free_port()
        self.log = folder / f"sidecar-{number}.log"
        self._file = folder / f"sidecar-{number}.yaml"
        self._file.write_text(self._configuration(text))
        self._process: subprocess.Popen[bytes]

    def launch(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "sidecar", "run", "-c", str(self._file)]
            self._process = spawn(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    async def ready(self) -> None:
        """Wait until it serves everybody."""
        for port in (self.port, self.login):
            for _ in range(int(START / STEP)):  # steps, not seconds: a machine that stands still is no fault
                if self._process.poll() is not None:
                    raise RuntimeError(f"sidecar {self.number} ended: {self.log.read_text()[-500:]}")
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(HOST, port)
                    writer.close()
                    break
                await asyncio.sleep(STEP)
            else:
                raise RuntimeError(f"sidecar {self.number} did not start: {self.log.read_text()[-500:]}")

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._process.kill()
        self._process.wait()

    def complaints(self) -> Counter[str]:
        """Return how often it logged each warning or error."""
        lines = (json.loads(one) for one in self.log.read_text().splitlines() if one.startswith("{"))
        return Counter(one["event"] for one in lines if one["level"] != "info")

    def _configuration(self, text: Mapping[str, str]) -> str:
        client, secret = CLIENT
        users = [one for one in RESOURCES.values() if not one.app]
        head = CONFIGURATION.format(
            port=self.port, admin=self.admin, login=self.login, token=ADMIN_TOKEN, client=client, secret=secret,
            scopes=" ".join(one.scope for one in users), resources=", ".join(one.name for one in users), **text,
        )  # fmt: skip
        return head + "".join(
            ROUTE.format(
                name=name, api=text["api"], who="app" if one.app else "user", scope=one.scope, resource=one.name
            )
            for name, one in RESOURCES.items()
        )
