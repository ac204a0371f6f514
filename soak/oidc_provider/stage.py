"""Everything started, and ended however the story ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.credentials.vault import generate_key
from soak.command import progress
from soak.oidc_provider.api import Api
from soak.oidc_provider.browser import Browser
from soak.oidc_provider.front import Front
from soak.oidc_provider.issuer import Issuer, install
from soak.oidc_provider.sentinel import Replicated
from soak.oidc_provider.sidecar import Sidecar

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator


@dataclass(slots=True)
class Stage:
    """The running parts."""

    front: Front
    api: Api
    issuer: Issuer
    redis: Replicated
    sidecars: list[Sidecar]

    def browser(self, user: str) -> Browser:
        """Return a new browser for a user."""
        return Browser(self.front.url, self.issuer.url, user)


@asynccontextmanager
async def standing(arguments: argparse.Namespace) -> AsyncIterator[Stage]:
    """Start everything."""
    install()
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="soak-"))
        if not os.environ.get("SOAK_KEEP"):
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        front, api = Front(), Api()
        await front.start()
        stack.callback(front.stop)
        await api.start()
        stack.push_async_callback(api.stop)
        issuer, redis = Issuer(folder / "issuer.log"), Replicated(folder)
        stack.push_async_callback(issuer.stop)
        await issuer.start(front.url, arguments.life)
        await api.trust(issuer.url)
        stack.callback(redis.stop)
        await redis.start()
        text = {"public": front.url, "store": redis.url, "key": generate_key(), "issuer": issuer.url, "api": api.url}
        sidecars = [Sidecar(folder, number, text) for number in range(arguments.instances)]
        for sidecar in sidecars:
            sidecar.launch()
            stack.callback(sidecar.kill)
        for sidecar in sidecars:
            await sidecar.ready()
        front.serve([one.login for one in sidecars])
        progress("everything is up")
        yield Stage(front, api, issuer, redis, sidecars)
