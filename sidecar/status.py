"""How the program is, for `/readyz`, the status page and the metrics: names, numbers and states, nothing secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.admin.state import Check, ProviderStatus, Readiness, RefusalStatus, RouteStatus, Status
from sidecar.errors import StoreBrokenError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.credentials.broker import Broker
    from sidecar.metrics import Metrics
    from sidecar.provider import AuthorizationServer, ProviderState
    from sidecar.settings import Route, Settings
    from sidecar.stores.contract import Store


async def readiness(
    metrics: Metrics,
    store: Store,
    providers: Mapping[str, AuthorizationServer],
    broker: Broker,
    now: float,
    *,
    draining: bool,
) -> Readiness:
    """Judge each dependency. The provider is not required: valid tokens go on without it, and it may come back."""
    checks = {"configuration": Check("ok") if metrics.config_ok else Check("failing", "the last reload failed", False)}
    checks["store"] = await _store(store)
    for name, provider in providers.items():
        state = provider.state()
        checks[f"provider {name}"] = Check(_word(state, "unknown"), state.last_error, required=False)
    if draining:
        checks["listeners"] = Check("off", "shutting down")
    ready = all(check.state in ("ok", "unknown") for check in checks.values() if check.required)
    return Readiness(ready, checks, broker.valid_for(now))


def _word(state: ProviderState, never: str) -> str:
    """Say how a provider is: one that refuses our client is reached, and of no use."""
    if state.reachable is None:
        return never
    return "ok" if state.reachable and not state.last_error else "failing"


async def _store(store: Store) -> Check:
    try:
        await store.ping()
    except StoreUnavailableError:
        return Check("failing", "unavailable")
    except StoreBrokenError:
        return Check("failing", "broken")
    return Check("ok")


def status(settings: Settings, path: str, error: str, metrics: Metrics, providers: Mapping[str, Any]) -> Status:
    """Return what the status page shows."""
    return Status(
        started_at=metrics.started_at,
        configuration=path,
        configuration_error=error,
        store=settings.store.url.reveal().partition(":")[0],
        sessions=metrics.read.sessions(),
        routes=[_route(route, metrics) for route in settings.routes],
        providers=[_provider(name, provider, settings) for name, provider in providers.items()],
        refusals=[RefusalStatus(at=one.at, route=one.route, code=one.code) for one in reversed(metrics.recent)],
    )


def _route(route: Route, metrics: Metrics) -> RouteStatus:
    tally = metrics.route(route.name)
    host = (route.match.host or "*") + (f":{route.match.port}" if route.match.port else "")
    return RouteStatus(
        name=route.name,
        match=host + route.match.path,
        upstream=f"{route.upstream}{route.base_path}",
        as_=route.as_,
        provider=route.provider or "",
        scope=" ".join(sorted(route.spec.scopes)) if route.spec else "",
        requests=sum(tally.statuses.values()),
        refusals=sum(tally.refusals.values()),
    )


def _provider(name: str, provider: AuthorizationServer, settings: Settings) -> ProviderStatus:
    state = provider.state()
    configured = settings.providers[name]
    return ProviderStatus(
        name=name,
        address=configured.issuer or configured.token_endpoint or "",
        state=_word(state, "not asked yet"),
        detail=state.last_error,
    )
