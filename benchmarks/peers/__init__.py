"""The proxies that are compared, by name, in the order of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.peers import aiohttp, envoy, go, mitmproxy, nginx, sidecar

if TYPE_CHECKING:
    from benchmarks.peers.contract import Peer

_ALL = (
    sidecar.USER,
    sidecar.APP,
    nginx.PEER,
    envoy.PEER,
    go.PEER,
    go.ALL_CORES,
    aiohttp.PEER,
    aiohttp.PLAIN_ASYNCIO,
    mitmproxy.PEER,
)
VARIANTS = {peer.name: peer for peer in (sidecar.INTERPRETED, sidecar.LOGGED, sidecar.IN_MEMORY, sidecar.IN_REDIS)}
"""The sidecar not compiled, with an access log, with other stores: measured where they are asked for by name."""
USUAL = [peer.name for peer in _ALL]
PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL} | VARIANTS
