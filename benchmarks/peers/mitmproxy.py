"""mitmproxy in reverse mode with an add-on of three lines: the quickest way to a header, and what it costs."""

from __future__ import annotations

from benchmarks.install import pypi, version_of
from benchmarks.peers.contract import Launch, Peer
from benchmarks.places import BUILD, PROGRAMS, free_port
from benchmarks.scene import TLS_NAME, Scene


def prepare() -> str:
    pypi("mitmproxy", "mitmdump")
    return version_of("mitmproxy")


def launch(scene: Scene) -> Launch:
    port = free_port()
    host = TLS_NAME if scene.tls else "127.0.0.1"
    target = f"{'https' if scene.tls else 'http'}://{host}:{scene.upstream_port}"
    options = ["-q", "--mode", f"reverse:{target}", "--listen-host", "127.0.0.1", "--listen-port", str(port)]
    options += ["--set", f"confdir={scene.directory / 'mitmproxy'}", "--set", "keep_host_header=true"]
    options += ["--set", "http2=false", "--set", f"ssl_verify_upstream_trusted_ca={scene.ca}"]
    program = BUILD / "venv-mitmproxy" / "bin" / "mitmdump"
    addon = PROGRAMS / "mitmproxy_addon.py"
    return Launch([program, *options, "-s", addon], port, {"PROXY_TOKEN": scene.app_token})


PEER = Peer("mitmproxy", "mitmproxy with an add-on", prepare, launch)
