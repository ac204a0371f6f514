"""Go's httputil.ReverseProxy with golang.org/x/oauth2 client credentials: what an engineer would write.

Built with Debian's compiler and library, without a module download. Measured with GOMAXPROCS=1, as every other peer
has one worker, and once as Go starts by default, with all cores.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.install import NotAvailableError, debian
from benchmarks.peers.contract import Launch, Peer
from benchmarks.places import BUILD, PROGRAMS, free_port
from benchmarks.scene import CLIENT_ID, CLIENT_SECRET, SCOPE, TLS_NAME, Scene

LIBRARIES = Path("/usr/share/gocode")
SOURCE = PROGRAMS / "goproxy" / "main.go"
PROGRAM = BUILD / "goproxy"


def prepare() -> str:
    go = debian("golang-go", "go")
    debian("golang-golang-x-oauth2-dev", str(LIBRARIES / "src" / "golang.org" / "x" / "oauth2"))
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < SOURCE.stat().st_mtime:
        _build(go)
    return subprocess.run([go, "version"], check=True, capture_output=True, text=True, timeout=10).stdout.split()[2][2:]


def _build(go: str) -> None:
    workspace = BUILD / "gopath"
    shutil.rmtree(workspace / "src", ignore_errors=True)
    shutil.copytree(SOURCE.parent, workspace / "src" / "goproxy")
    paths = {"GO111MODULE": "off", "GOPATH": f"{workspace}:{LIBRARIES}", "GOCACHE": str(BUILD / "gocache")}
    command = [go, "build", "-o", str(PROGRAM), "goproxy"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=600, env={**os.environ, **paths}
    )
    if done.returncode:
        raise NotAvailableError(f"go build: {done.stderr.strip()[-300:]}")


def launch(scene: Scene, *, one_core: bool) -> Launch:
    port = free_port()
    argv: list[str | Path] = [
        PROGRAM,
        "-listen",
        f"127.0.0.1:{port}",
        "-upstream",
        scene.upstream,
        "-token-url",
        scene.token_url,
    ]
    argv += ["-client-id", CLIENT_ID, "-client-secret", CLIENT_SECRET, "-scope", SCOPE]
    argv += ["-ca", scene.ca, "-server-name", TLS_NAME] if scene.tls else []
    return Launch(argv, port, {"GOMAXPROCS": "1"} if one_core else {})


PEER = Peer("go", "Go ReverseProxy, x/oauth2", prepare, functools.partial(launch, one_core=True))
ALL_CORES = Peer("go-all", "the same with all cores", prepare, functools.partial(launch, one_core=False))
