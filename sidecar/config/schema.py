"""The keys of the configuration file: their types, defaults and descriptions, section by section.

pydantic models for shape and JSON Schema only, made of `keys`; routes, providers and doors stand in modules of their
own. `required` says which keys must be there. What keys mean together is `rules`.
"""

from __future__ import annotations

import dataclasses
from functools import cache, reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Final, get_type_hints

from pydantic import BaseModel, create_model

from sidecar.callers import APP_KINDS, SESSION_KINDS
from sidecar.config import kinds
from sidecar.config.door_keys import AdminKeys, ListenerKeys, LoginKeys, SessionsKeys
from sidecar.config.keys import Section, key
from sidecar.config.provider_keys import ProviderKeys
from sidecar.config.route_keys import RouteKeys
from sidecar.model import Secret
from sidecar.settings import Destinations, Limits, StoreSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

LATER_SECTIONS: Final[tuple[str, ...]] = ()
LATER_CALLERS: Final = tuple(
    name for name in ("bearer", "peer_uid", "jwt") if name not in SESSION_KINDS and name not in APP_KINDS
)
DEFAULT_SESSIONS: Final = (("cookie", "sidecar_session"), ("header", "X-Session-Id"))
_DEFAULT_SESSIONS_SHOWN: Final = [dict([pair]) for pair in DEFAULT_SESSIONS]


class StoreKeys(Section):
    """The store."""

    url: kinds.SecretText | None = key("The store: memory:, sqlite:PATH or a Redis URL.", "sqlite:sidecar.db")
    keys: list[kinds.SecretText] | None = key("Keys that encrypt the records, newest first, from `sidecar keygen`.")
    on_outage: kinds.OnOutage | None = key(
        "What user routes without a valid token do while the store is away: fail, or local, where this instance "
        "renews the sessions that it renewed last.",
        StoreSettings().on_outage,
    )


class TunnelsKeys(Section):
    """CONNECT."""

    allow: list[kinds.TunnelTarget] | None = key("Destinations of tunnels, each host:port or *.suffix:port.")


class DestinationsKeys(Section):
    """Destinations."""

    deny_private: kinds.Switch | None = key(
        "Refuse upstreams that resolve to loopback, link-local or private addresses they do not name.",
        Destinations().deny_private,
    )


class LimitsKeys(Section):
    """Limits."""

    headers: kinds.Size | None = key("Bytes of one message head, target included.", Limits().headers)
    header_count: kinds.Count | None = key("Header lines of one message.", Limits().header_count)
    target: kinds.Size | None = key("Bytes of a request target.", Limits().target)
    head_timeout: kinds.Duration | None = key("Time for a request's head to arrive.", Limits().head_timeout)
    idle_timeout: kinds.Duration | None = key("Time a connection may stay idle.", Limits().idle_timeout)
    body_rate: kinds.Rate | None = key(
        "Bytes a second that a request's body brings at least, over each idle_timeout; 0: any.", Limits().body_rate
    )
    connections: kinds.Count | None = key("Connections accepted at once.", Limits().connections)
    replay_memory: kinds.Size | None = key("Bytes kept for second tries, over all requests.", Limits().replay_memory)
    memory: kinds.Size | None = key("Resident memory above which new work is refused with 503; none by default.")
    worker_silence: kinds.Duration | None = key(
        "Time after which one of several workers that does not answer is killed and replaced.", Limits().worker_silence
    )


_KEY_TYPES: Final[Mapping[str, Any]] = {"header": kinds.Header, "cookie": kinds.CookieName}
_VALUE_TYPES: Final[Mapping[Any, Any]] = {
    str: kinds.Text, Secret: kinds.HeaderKey, int: kinds.Count, float: kinds.Duration, bool: kinds.Switch,
}  # fmt: skip


@cache
def caller_keys(kind: type) -> type[Section]:
    """Return the model of one kind of caller: the fields of its dataclass, but for `app`, are its keys."""
    hints = get_type_hints(kind)
    description = (kind.__doc__ or "").strip().splitlines()[0]
    members: dict[str, Any] = {}
    for member in dataclasses.fields(kind):
        if member.name != "app":
            annotation = _KEY_TYPES.get(member.name, _VALUE_TYPES.get(hints[member.name], hints[member.name]))
            members[member.name] = (annotation | None, key(description))
    return create_model(f"{kind.__name__}Keys", __base__=Section, __doc__=description, **members)


def required(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the keys that must be written, each with what to say where it is not."""
    return _REQUIRED.get(model, {})


def caller_required(kind: type) -> tuple[str, ...]:
    """Return the keys of a kind of caller that have no default."""
    return tuple(
        member.name
        for member in dataclasses.fields(kind)
        if member.name != "app"
        and member.default is dataclasses.MISSING
        and member.default_factory is dataclasses.MISSING
    )


def caller_kinds() -> tuple[type, ...]:
    """Return every kind of caller."""
    return (*SESSION_KINDS.values(), *APP_KINDS.values())


_REQUIRED: Final[Mapping[type[BaseModel], Mapping[str, str]]] = {
    ListenerKeys: {"bind": "is missing: where to listen, such as 127.0.0.1:8080"},
    LoginKeys: {"public_url": "is missing: the origin that browsers see, such as https://app.example.com"},
    ProviderKeys: {"client_id": "is missing: our client identifier at this provider"},
    RouteKeys: {
        "match": "is missing: which requests the route takes, such as {host: api.internal}",
        "upstream": "is missing: where the requests go, such as https://api.example.com",
        "as": "is missing: `as` is always written: app, user or none",
    },
}

_session_entry: Any = reduce(or_, [caller_keys(kind) for kind in SESSION_KINDS.values()])
_app_entry: Any = reduce(or_, [caller_keys(kind) for kind in APP_KINDS.values()])

CallersKeys: Any = create_model(
    "CallersKeys",
    __base__=Section,
    __doc__="Callers.",
    session=(
        list[_session_entry] | None,
        key("Where the session's id stands; the first place that holds one decides.", _DEFAULT_SESSIONS_SHOWN),
    ),
    apps=(dict[kinds.Name, _app_entry] | None, key("Applications by name, each with the proof that it gives.")),
)

File: Any = create_model(
    "File",
    __base__=Section,
    __doc__="Configuration of the token sidecar.",
    version=(kinds.Version | None, key("Version of this format.", 1)),
    listeners=(list[ListenerKeys] | None, key("Where requests are taken; 127.0.0.1:8080 by default.")),
    admin=(AdminKeys | None, key("The admin listener: health, metrics, session API.")),
    login=(LoginKeys | None, key("The sidecar itself signs users in; left out: it does not.")),
    sessions=(SessionsKeys | None, key("How long sessions live.")),
    store=(StoreKeys | None, key("Where sessions and tokens are kept.")),
    callers=(CallersKeys | None, key("Who may call, and where the session's id stands.")),
    providers=(dict[kinds.Name, ProviderKeys] | None, key("Authorization servers by name.")),
    routes=(list[RouteKeys] | None, key("Which requests go where, and with whose token.")),
    unmatched=(kinds.Unmatched | None, key("What happens to a request without a route.", "refuse")),
    tunnels=(TunnelsKeys | None, key("CONNECT, tunnelled untouched; none by default.")),
    destinations=(DestinationsKeys | None, key("What upstream names may resolve to.")),
    limits=(LimitsKeys | None, key("What one request and one process may use.")),
    via=(kinds.Pseudonym | None, key("Pseudonym for the Via header; empty: no such header.", "")),
    access_log=(kinds.Switch | None, key("Write one line for each request.", default=False)),
    workers=(
        kinds.Workers | None,
        key("Processes that serve requests on the same ports; auto: one for each CPU that may be used.", 1),
    ),
)
