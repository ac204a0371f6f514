"""One sidecar with a sign-in, on the shared store."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from soak.fleet import ADMIN_TOKEN, Instance, free_port
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


class Sidecar(Instance):
    """`text` gives the members of CONFIGURATION that all instances share."""

    def __init__(self, folder: Path, number: int, text: Mapping[str, str]) -> None:
        self.number = number
        self.port, self.admin, self.login = free_port(), free_port(), free_port()
        self.log = folder / f"sidecar-{number}.log"
        self.file = folder / f"sidecar-{number}.yaml"
        client, secret = CLIENT
        scopes = " ".join(one.scope for one in RESOURCES.values() if not one.app)
        head = CONFIGURATION.format(
            port=self.port, admin=self.admin, login=self.login, token=ADMIN_TOKEN, client=client, secret=secret,
            scopes=scopes, **text,
        )  # fmt: skip
        routes = [
            ROUTE.format(
                name=name, api=text["api"], who="app" if one.app else "user", scope=one.scope, resource=one.name
            )
            for name, one in RESOURCES.items()
        ]
        self.file.write_text(head + "".join(routes))
        self._command = [sys.executable, "-m", "sidecar", "run", "-c", str(self.file)]

    def spoken(self) -> list[dict[str, object]]:
        """Return the lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]
