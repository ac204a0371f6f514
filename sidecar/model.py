"""The values that travel through the corridor: secrets, targets, callers, tokens and the keys that tell tokens apart.

Only frozen values; no I/O, no clock, no configuration file. Names follow RFC 6749 (client, scope, refresh token),
RFC 8693 (subject token), RFC 8707 (resource) and RFC 9112 (request target).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, NoReturn

As = Literal["app", "user", "none"]


class Secret:
    """A text that shows itself only to `reveal()`: not in repr, str, format, JSON or pickle."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """Return the text. Every call of this is a place where a secret leaves: few, and counted by a test."""
        return self.__text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.__text == other.reveal()

    def __hash__(self) -> int:
        return hash(self.__text)

    def __bool__(self) -> bool:
        return bool(self.__text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")


class Origin(NamedTuple):
    """Where bytes go: scheme, host (lower case, no brackets) and port."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Return the value of Host for this origin: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS.get(self.scheme) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is for, read from its target (RFC 9112 section 3.2) and, in origin-form only, from Host."""

    form: Literal["origin", "absolute", "authority", "asterisk"]
    scheme: str
    host: str
    port: int
    path: bytes  # path and query exactly as received, for the wire
    compared: str  # the path alone, unreserved characters decoded, for matching
    plain: bool  # whether every reader takes `path` for the same segments (no %2f, %5c, ..;, dot segments)
    harmless: bool = False  # whether no route can object: plain, asked for by http, without an access_token


class Caller(NamedTuple):
    """On whose behalf a request goes. `session` is the opaque id that the application presented."""

    app: str | None = None
    session: Secret | None = None


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """Everything that makes a route's token different, except whose it is. A test mutates every field of it."""

    provider: str
    issuer: str
    client: str
    grant: str
    audience: str = ""
    resources: tuple[str, ...] = ()
    scopes: frozenset[str] = frozenset()
    params: tuple[tuple[str, str], ...] = ()
    binding: str = ""
    fingerprint: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        members = {f.name: _canonical(getattr(self, f.name)) for f in fields(self) if f.init}
        text = json.dumps(members, sort_keys=True, ensure_ascii=True)
        object.__setattr__(self, "fingerprint", hashlib.sha256(text.encode()).hexdigest())


def _canonical(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


class Identity(NamedTuple):
    """Who signed in: the issuer's subject, and the issuer's own session where it names one (`sid`)."""

    issuer: str
    subject: str
    sid: str = ""


class TokenKey(NamedTuple):
    """The key of the cache and of the flight: the fingerprint of a `TokenSpec`, and the identity it is for.

    `identity` is the session id of an `as: user` request; for `as: app` it is `APPLICATION`. Never empty.
    """

    fingerprint: str
    identity: str


APPLICATION = "\0application"
"""The identity of the application's own token: no session id can be equal to it (ids hold no control characters)."""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token as a token response gave it. Times are seconds since the epoch."""

    value: Secret
    requested_at: float
    expires_at: float
    scopes: frozenset[str] | None = None  # None: the response named none, so it is what was asked for (RFC 6749 5.1)
    token_type: str = "Bearer"  # noqa: S105 - the name of a type

    @property
    def life(self) -> float:
        """Seconds from the sending of the token request to the expiry."""
        return self.expires_at - self.requested_at


# -- what a token request comes to: the five outcomes that `settle` knows ------------------------------------------


class Granted(NamedTuple):
    """A valid token response (RFC 6749 section 5.1)."""

    token: Token
    refresh_token: Secret | None = None
    id_token: Secret | None = None


class GrantRefused(NamedTuple):
    """`invalid_grant`: the refresh token (code, assertion) is dead. The only outcome that ends a session."""

    error: str = "invalid_grant"


class ClientRefused(NamedTuple):
    """Another RFC 6749 section 5.2 error: the client, its scopes or its request are refused; nobody's session ends."""

    error: str


class Unavailable(NamedTuple):
    """No answer, 5xx, 429, `temporarily_unavailable`: nothing is known. `retry_after` in seconds, where it was told."""

    reason: str
    retry_after: float | None = None


class Invalid(NamedTuple):
    """An answer that is not a token response (HTML, empty, a token that cannot stand in a header).

    `refresh_token` is a valid one that the answer nevertheless carried: the one that was spent for it may be dead.
    """

    reason: str
    refresh_token: Secret | None = None


Outcome = Granted | GrantRefused | ClientRefused | Unavailable | Invalid
Form = list[tuple[str, str]]
"""A token request's parameters in order, repeated names allowed (`resource`). Values may be secret: never logged."""
