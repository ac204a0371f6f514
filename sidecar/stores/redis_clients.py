"""redis-py's clients for a target: which connections are made, how many, with which time-outs and which TLS.

Opens nothing. Retries are not left to redis-py: `redis_driver` has them.
"""

from __future__ import annotations

from ssl import SSLContext, create_default_context
from typing import TYPE_CHECKING, Any

from redis.asyncio import Connection, ConnectionPool, Redis, RedisCluster, Sentinel, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff

from sidecar.stores.redis_names import named

if TYPE_CHECKING:
    from sidecar.stores.redis_names import Lookups
    from sidecar.stores.redis_url import Login, Node, RedisTarget, Tls

AT_ONCE = 16
SPARE = 4  # connections beyond those: subscription, listing of keys


def connect(target: RedisTarget, lookups: Lookups) -> tuple[Any, Any]:
    """Return the client, and the Sentinels where there are some (else None). OSError: a file for TLS is no good."""
    options = {**_options(target), **_login(target.login)}
    context = _context(target.tls) if target.tls else None
    plain = named(_with(context, SSLConnection) if context else Connection, lookups)
    if target.clustered:
        return _cluster(target, plain, options, tls=context is not None), None
    if not target.master:
        return _single(target.nodes[0], plain, {"db": target.database, **options}), None
    sentinels = Sentinel(())  # type: ignore[no-untyped-call]
    login = _login(target.sentinel_login)
    sentinels.sentinels = [_single(node, plain, {**options, **login}) for node in target.nodes]
    kind = named(_with(context, SentinelManagedSSLConnection) if context else SentinelManagedConnection, lookups)
    return sentinels.master_for(target.master, connection_class=kind, db=target.database, **options), sentinels


def _single(node: Node, kind: type[Connection], options: dict[str, Any]) -> Any:
    return Redis.from_pool(ConnectionPool(connection_class=kind, host=node.host, port=node.port, **options))


def _cluster(target: RedisTarget, kind: type[Connection], options: dict[str, Any], *, tls: bool) -> Any:
    nodes = [ClusterNode(node.host, node.port) for node in target.nodes]
    client = RedisCluster(startup_nodes=nodes, require_full_coverage=False, ssl=tls, **options)
    client.connection_kwargs["connection_class"] = kind
    client.nodes_manager.connection_kwargs["connection_class"] = kind
    for node in client.nodes_manager.startup_nodes.values():
        node.connection_class = kind
    return client


def _context(tls: Tls) -> SSLContext:
    """Return a context for all connections: redis-py makes one for each, at the event loop's expense.

    Also, its own trusts the system's authorities beside the given ones.
    """
    context = create_default_context(cafile=tls.ca or None)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key or None)
    return context


def _with(context: SSLContext, base: type[SSLConnection]) -> type[SSLConnection]:
    class SharedContext(base):  # type: ignore[valid-type, misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.ssl_context.context = context

    return SharedContext


def _options(target: RedisTarget) -> dict[str, Any]:
    return {
        "protocol": 2,
        "driver_info": None,
        "socket_timeout": target.timeout,
        "socket_connect_timeout": target.timeout,
        "max_connections": AT_ONCE + SPARE,
        "retry": Retry(NoBackoff(), 0),
    }


def _login(login: Login) -> dict[str, str | None]:
    return {"username": login.username or None, "password": login.password or None}
