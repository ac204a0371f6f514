"""The sidecar as a user runs it: `python -m sidecar run -c FILE`, SQLite store, one route each for app and user."""

from __future__ import annotations

import compileall
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import compiled
from benchmarks.install import NotAvailableError
from benchmarks.peers.contract import Launch, Peer
from benchmarks.places import BUILD, ROOT, free_port
from benchmarks.progress import say
from benchmarks.scene import APP_HOST, CLIENT_ID, CLIENT_SECRET, SCOPE, TLS_NAME, USER_HOST, Scene
from benchmarks.session_api import put_sessions
from sidecar.credentials.vault import generate_key

if TYPE_CHECKING:
    from collections.abc import Callable

REDIS = "BENCHMARK_REDIS"
"""The variable that names an empty Redis."""


@functools.cache
def _compiled() -> Path | None:
    """Where the sidecar is as the image has it; None where there is no compiler."""
    try:
        return compiled.install(BUILD / "compiled")
    except NotAvailableError as why:
        say(f"measuring the sidecar as it is interpreted, which is slower than the image's: {why}")
        return None


def environment() -> dict[str, str]:
    """What a sidecar is started with: its forwarding path is compiled, as in the image, where that can be done."""
    return compiled.environment(_compiled() or ROOT)


def prepare(environ: Callable[[], dict[str, str]] = environment) -> str:
    """Return the version.

    All has its bytecode, as an image's and a wheel's modules have: a checkout may be told to keep none.
    """
    where = environ()
    compileall.compile_dir(Path(where["PYTHONPATH"]) / "sidecar", quiet=1)
    command = [sys.executable, "-m", "sidecar", "version"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env={**os.environ, **where})
    if done.returncode:
        raise NotAvailableError(
            f"the sidecar does not start: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        )
    return done.stdout.strip()


Entry = dict[str, object]


def route(scene: Scene, host: str, who: str, **match: object) -> Entry:
    """A route entry of the YAML file to the benchmark's upstream."""
    entry: Entry = {"match": {"host": host, **match}, "upstream": scene.upstream, "as": who, "scope": SCOPE}
    return entry | ({"tls": {"ca": str(scene.ca), "server_name": TLS_NAME}} if scene.tls else {})


def configuration(
    scene: Scene, port: int, admin: int, routes: list[Entry], name: str, store: Entry | None = None, **more: object
) -> Path:
    """Write the configuration (JSON, which is YAML too), with `more` top-level keys, and return its path."""
    text = {
        "version": 1,
        "listeners": [{"bind": f"127.0.0.1:{port}"}],
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "store": store or {"url": f"sqlite:{scene.directory / f'{name}.db'}"},
        "providers": {
            "idp": {"token_endpoint": scene.token_url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        },
        "routes": routes,
        **more,
    }
    path = scene.directory / f"{name}.yaml"
    path.write_text(json.dumps(text, indent=1))
    return path


def command(path: Path) -> list[str | Path]:
    return [sys.executable, "-m", "sidecar", "run", "-c", path]


def prepare_redis() -> str:
    if not os.environ.get(REDIS):
        raise NotAvailableError(f"{REDIS} names no Redis: {REDIS}=redis://127.0.0.1:6379/0")
    return prepare()


def _store(kind: str) -> Entry | None:
    if kind == "redis":
        return {"url": os.environ[REDIS], "keys": [generate_key()]}
    return {"url": "memory:"} if kind == "memory" else None


def _interpreted() -> dict[str, str]:
    return compiled.environment(ROOT)


def launch(
    scene: Scene,
    *,
    name: str,
    store: str = "sqlite",
    environ: Callable[[], dict[str, str]] = environment,
    **more: object,
) -> Launch:
    port, admin = free_port(), free_port()
    routes = [route(scene, APP_HOST, "app"), route(scene, USER_HOST, "user")]
    path = configuration(scene, port, admin, routes, name, _store(store), **more)
    return Launch(command(path), port, environ(), functools.partial(put_sessions, admin, scene.sessions))


USER = Peer("sidecar-user", "sidecar, `as: user`", prepare, functools.partial(launch, name="sidecar-user"), "user")
APP = Peer("sidecar-app", "sidecar, `as: app`", prepare, functools.partial(launch, name="sidecar-app"))
INTERPRETED = Peer(
    "sidecar-interpreted",
    "sidecar, `as: user`, not compiled",
    functools.partial(prepare, _interpreted),
    functools.partial(launch, name="sidecar-interpreted", environ=_interpreted),
    "user",
)
LOGGED = Peer(
    "sidecar-logged",
    "sidecar, `as: user`, access log on",
    prepare,
    functools.partial(launch, name="sidecar-logged", access_log=True),
    "user",
)
IN_MEMORY = Peer(
    "sidecar-memory",
    "sidecar, `as: user`, memory store",
    prepare,
    functools.partial(launch, name="sidecar-memory", store="memory"),
    "user",
)
IN_REDIS = Peer(
    "sidecar-redis",
    "sidecar, `as: user`, Redis store",
    prepare_redis,
    functools.partial(launch, name="sidecar-redis", store="redis"),
    "user",
)
