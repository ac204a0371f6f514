"""What a reload may change and what it needs: decided before anything of the new configuration is in use."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sidecar.provider import AuthorizationServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.settings import Address, ProviderSettings, Settings

_FIXED = ("listeners", "workers")  # parts of the configuration that are bound once


class Prepared(NamedTuple):
    """A configuration that can be taken at once, and the authorization servers that it needs."""

    settings: Settings
    providers: dict[str, AuthorizationServer]


def refuse_fixed(old: Settings, new: Settings) -> None:
    """Raise `ValueError` where a reload would change what is bound once."""
    fixed = [name for name in _FIXED if getattr(new, name) != getattr(old, name)]
    fixed += ["admin"] * (replace(new.admin, token=old.admin.token) != old.admin)
    fixed += ["store"] * (replace(new.store, keys=old.store.keys) != old.store)
    fixed += ["store.keys"] * (bool(old.store.keys) and not new.store.keys)
    fixed += ["login.bind"] * (_login_bind(new) != _login_bind(old))
    if fixed:
        raise ValueError(f"{', '.join(fixed)} cannot change while running: restart")


def _login_bind(settings: Settings) -> Address | None:
    return settings.login.bind if settings.login else None


def providers_of(
    settings: Settings,
    running: Mapping[str, AuthorizationServer],
    configured: Mapping[str, Any],
    clock: Callable[[], float],
) -> dict[str, AuthorizationServer]:
    """Return the authorization servers; those whose settings and TLS files are the same go on, with what they know."""
    return {
        name: running[name]
        if name in running and configured[name] == one and not running[name].outdated()
        else _made(one, running.get(name), clock)
        for name, one in settings.providers.items()
    }


def _made(
    settings: ProviderSettings, former: AuthorizationServer | None, clock: Callable[[], float]
) -> AuthorizationServer:
    made = AuthorizationServer(settings, clock, random.random)
    if former is not None:
        made.requests = former.requests  # counted on, by both: counters never go back
    return made
