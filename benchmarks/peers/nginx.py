"""nginx with a static Authorization header: no OAuth at all, the practical limit for an HTTP proxy."""

from __future__ import annotations

import os
import subprocess

from benchmarks.install import debian
from benchmarks.peers.contract import Launch, Peer
from benchmarks.places import PROGRAMS, fill, free_port
from benchmarks.scene import TLS_NAME, Scene

PROGRAM = "/usr/sbin/nginx"


def prepare() -> str:
    program = debian("nginx-light", PROGRAM)
    said = subprocess.run([program, "-v"], check=True, capture_output=True, text=True, timeout=10).stderr
    return said.strip().rpartition("/")[2]


def launch(scene: Scene) -> Launch:
    tls = (
        f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {scene.ca}; proxy_ssl_server_name on;"
        f" proxy_ssl_name {TLS_NAME}; proxy_ssl_protocols TLSv1.2 TLSv1.3;"
    )
    port = free_port()
    values = {
        "USER": "user root;" if os.geteuid() == 0 else "",
        "DIRECTORY": scene.directory,
        "PORT": port,
        "UPSTREAM": scene.upstream_port,
        "SCHEME": "https" if scene.tls else "http",
        "TLS": tls if scene.tls else "",
        "TOKEN": scene.app_token,
    }
    configuration = fill(PROGRAMS / "nginx.conf", scene.directory / "peer-nginx.conf", values)
    return Launch([PROGRAM, "-c", configuration, "-e", "stderr"], port)


PEER = Peer("nginx", "nginx, a static header", prepare, launch)
