"""The program with the three examples registered: their registry lines, then one request for each caller.

Run with a folder for the configuration file; prints the statuses and the grants that the authorization server saw.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from sidecar.callers import APP_KINDS
from sidecar.grants import GRANTS
from sidecar.stores import STORES
from tests.law.examples import drawer_store, errand_grant, house_header

APP_KINDS["house"] = house_header.House
GRANTS["errand"] = errand_grant
STORES["drawer"] = drawer_store.place

CONFIGURATION = """
listeners: [{{bind: "127.0.0.1:0"}}]
admin: {{bind: "127.0.0.1:0"}}
store: {{url: "drawer:top"}}
callers: {{apps: {{milkman: {{house: "${{HOUSE}}"}}}}}}
providers: {{idp: {{issuer: {issuer}, client_id: legacy-app, client_secret: "${{SECRET}}"}}}}
routes: [{{match: {{host: stats.internal}}, upstream: {api}, as: app, grant: errand, scope: stats.read}}]
"""


async def main(folder: Path) -> None:
    from sidecar.app import serve
    from sidecar.config import load
    from sidecar.demo.api import Api
    from sidecar.demo.authorization_server import AuthorizationServer
    from sidecar.demo.issuer.clients import Client
    from sidecar.demo.legacy_app import get

    client, resource = Client("legacy-app", "s3cret", scopes=frozenset({"stats.read"})), Client("demo-api", "s3cret")
    async with AuthorizationServer([client, resource]) as server, Api(server.issuer, resource) as api:
        path = folder / "sidecar.yaml"
        path.write_text(CONFIGURATION.format(issuer=server.issuer, api=api.url), encoding="utf-8")
        settings = load(str(path), {"HOUSE": "number-7", "SECRET": client.secret})
        async with serve(settings) as running:
            url = f"http://127.0.0.1:{running.proxy_port}/stats"
            answers = {
                key: (await get(url, {"Host": "stats.internal", **({"X-House": key} if key else {})})).status
                for key in ("number-7", "number-8", "")
            }
        print(json.dumps({"answers": answers, "grants": [one.grant_type for one in server.requests if one.grant_type]}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
