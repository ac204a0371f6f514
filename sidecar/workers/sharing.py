"""What each of several workers gets of what the configuration allows to all. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from sidecar.settings import MIB

if TYPE_CHECKING:
    from sidecar.settings import Limits, Login, ProviderSettings, Route, Settings

LEAST_MEMORY = 64 * MIB
"""What a worker may always use: most of it is shared with the others and counted for each of them."""
Amount = TypeVar("Amount", int, int | None)


def share(settings: Settings, workers: int) -> Settings:
    """Return the settings of one worker: limits of the whole program divided, rounded up, so that none is 0.

    What is the same for each message or connection stays.
    """
    return replace(
        settings,
        limits=_limits(settings.limits, workers),
        providers={name: _provider(one, workers) for name, one in settings.providers.items()},
        routes=tuple(_route(route, workers) for route in settings.routes),
        login=_login(settings.login, workers),
    )


def _limits(limits: Limits, workers: int) -> Limits:
    return replace(
        limits,
        connections=_part(limits.connections, workers),
        replay_memory=_part(limits.replay_memory, workers),
        memory=limits.memory and min(limits.memory, max(_part(limits.memory, workers), LEAST_MEMORY)),
    )


def _provider(provider: ProviderSettings, workers: int) -> ProviderSettings:
    limit = provider.limit
    at_once, per_second = _part(limit.at_once, workers), _part(limit.per_second, workers)
    return replace(provider, limit=replace(limit, at_once=at_once, per_second=per_second))


def _route(route: Route, workers: int) -> Route:
    return replace(route, requests=_part(route.requests, workers)) if route.requests else route


def _login(login: Login | None, workers: int) -> Login | None:
    return login and replace(login, per_second=_part(login.per_second, workers))


def _part(amount: Amount, workers: int) -> Amount:
    return amount if amount is None else -(-amount // workers)
