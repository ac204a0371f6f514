"""What is kept about one session: a refresh chain for each provider, and the access tokens bought with it.

Pure values: which stored token may serve which route, how a chain goes on after a renewal, when a session ends, and the
bytes of a record before it is sealed. Knows no store, no encryption, no clock. An application's own token is kept in
the same form, as a record with one chain. RFC 6749 sections 3.3, 5.1 and 6, RFC 8707.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sidecar.credentials.lifecycle import dead_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.model import Granted, Identity, Secret, Token, TokenSpec

IDLE_LIFE = 7 * 86_400.0
"""Seconds after its last use at which a session ends."""
ABSOLUTE_LIFE = 30 * 86_400.0
"""Seconds after a sign-in at which its chain ends, used or not."""
MOST_TOKENS = 16
"""Access tokens kept in one chain: the newest."""

_PROTOCOL_SCOPES = frozenset({"openid", "offline_access"})  # ask for an ID token, a refresh token: no access

Params = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One state of a chain: the `generation`th since the sign-in of this number.

    Two steps of one sign-in have an order. Which of two sign-ins came later they cannot tell (clocks lie): only
    the store knows, by the version of the record. So there is no `<`.
    """

    sign_in: int
    generation: int

    def reaches(self, other: Step) -> bool:
        """Say whether this is the other step, or a later one of the same sign-in."""
        return self.sign_in == other.sign_in and self.generation >= other.generation

    def passes(self, other: Step) -> bool:
        """Say whether this is a later step of the same sign-in."""
        return self.sign_in == other.sign_in and self.generation > other.generation


@dataclass(frozen=True, slots=True)
class Bought:
    """An access token and what it was bought for.

    `fingerprint` is the `TokenSpec`'s; empty for the token of a sign-in, whose `params` are unknown (None)
    where an application handed it over.
    """

    token: Token
    generation: int
    fingerprint: str = ""
    grant: str = "session"
    audience: str = ""
    resources: tuple[str, ...] = ()
    params: Params | None = None
    binding: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """The refresh token of one sign-in and its access tokens.

    `home` is the issuer and client that they belong to: a chain is never used with another. `born` is the sign-in's
    time in milliseconds, `sign_in` a number that no other has. `generation` grows with each change of the chain.
    """

    home: str
    born: int
    sign_in: int
    generation: int = 1
    refresh_token: Secret | None = None
    tokens: tuple[Bought, ...] = ()
    identity: Identity | None = None  # where the sidecar itself signed the user in
    id_token: Secret | None = None  # the newest one of that sign-in

    @property
    def step(self) -> Step:
        """Return where the chain is."""
        return Step(self.sign_in, self.generation)

    def step_of(self, bought: Bought) -> Step:
        """Return where the chain was when it got one of its tokens."""
        return Step(self.sign_in, bought.generation)

    def find(self, spec: TokenSpec, rejected: Step | None) -> Bought | None:
        """Return the best stored token for `spec`: not what was rejected or older, then the longest-lived."""

        def merit(bought: Bought) -> tuple[bool, float]:
            return rejected is None or not rejected.reaches(self.step_of(bought)), bought.token.expires_at

        return max((bought for bought in self.tokens if serves(bought, spec)), key=merit, default=None)


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """All that is kept about a session. `chains` is by provider. The session's id is not here, nor anywhere.

    `idle` and `absolute` are the lifetimes that were in force at its sign-in, in seconds.
    """

    created: float
    last_used: float
    subject: str | None = None
    chains: Mapping[str, Chain] = field(default_factory=dict)
    idle: float = IDLE_LIFE
    absolute: float = ABSOLUTE_LIFE

    @property
    def sign_ins(self) -> dict[str, int]:
        """Return the number of the sign-in that each provider's chain is of."""
        return {provider: chain.sign_in for provider, chain in self.chains.items()}

    @property
    def ends_at(self) -> float:
        """Return when nothing of this record may be used any more."""
        return min(self.last_used + self.idle, max(map(self._end_of, self.chains.values()), default=0.0))

    def chain(self, provider: str, home: str, now: float) -> Chain | None:
        """Return the provider's chain while the session lives, where it belongs to this issuer and client."""
        chain = self.chains.get(provider)
        alive = chain is not None and chain.home == home and now < min(self._end_of(chain), self.ends_at)
        return chain if alive else None

    def _end_of(self, chain: Chain) -> float:
        return chain.born / 1000 + self.absolute

    def with_chain(self, provider: str, chain: Chain, now: float) -> SessionRecord:
        """Return the record with the provider's chain replaced."""
        return replace(self, last_used=max(now, self.last_used), chains={**self.chains, provider: chain})

    def without(self, provider: str) -> SessionRecord:
        """Return the record without the provider's chain."""
        return replace(self, chains={name: chain for name, chain in self.chains.items() if name != provider})


def home(spec: TokenSpec) -> str:
    """Return the issuer and client that a chain belongs to."""
    return f"{spec.client}@{spec.issuer}"


def serves(bought: Bought, spec: TokenSpec) -> bool:
    """Say whether a stored token may be sent on a route.

    A token that was bought for this very spec serves unless the scope was narrowed: names that were not asked for are
    the server's own spelling. Any other serves where its scope is known to cover the route's and all else agrees; a
    route that names no scope takes the sign-in's token only, since it wants what the user agreed to, not a part of it.
    """
    granted, wanted = bought.token.scopes, spec.scopes - _PROTOCOL_SCOPES
    if bought.fingerprint == spec.fingerprint:
        return granted is None or not granted - _PROTOCOL_SCOPES < wanted
    agrees = (
        (bought.grant, bought.audience, bought.binding) == (spec.grant, spec.audience, spec.binding)
        and set(bought.resources) == set(spec.resources)
        and bought.params in (None, spec.params)
    )
    covers = granted is None or wanted <= granted
    return agrees and covers and (bool(wanted) or not bought.fingerprint)


def signed_in(
    chain_home: str,
    born: int,
    sign_in: int,
    granted: Granted,
    audience: str = "",
    resources: tuple[str, ...] = (),
    identity: Identity | None = None,
    params: Params | None = None,
) -> Chain:
    """Return the chain of a new sign-in. Without `scope` in the response its token is taken for what the routes ask.

    `params`: of its token request, where they are known.
    """
    bought = Bought(granted.token, 1, audience=audience, resources=resources, params=params)
    id_token = granted.id_token if identity else None
    return Chain(chain_home, born, sign_in, 1, granted.refresh_token, (bought,), identity, id_token)


def renewed(chain: Chain, spec: TokenSpec, granted: Granted, now: float) -> Chain:
    """Return the chain after a renewal for `spec`. A response without refresh token keeps the old (section 6)."""
    scopes = spec.scopes if granted.token.scopes is None else granted.token.scopes
    generation = chain.generation + 1
    bought = Bought(
        replace(granted.token, scopes=scopes),
        generation,
        spec.fingerprint,
        spec.grant,
        spec.audience,
        spec.resources,
        spec.params,
        spec.binding,
    )
    others = [old for old in chain.tokens if old.fingerprint != spec.fingerprint and now < dead_at(old.token)]
    others.sort(key=lambda old: old.generation)
    return replace(
        chain,
        generation=generation,
        refresh_token=granted.refresh_token or chain.refresh_token,
        tokens=(*others[-(MOST_TOKENS - 1) :], bought),
        id_token=(granted.id_token or chain.id_token) if chain.identity else None,
    )


def rotated(chain: Chain, refresh_token: Secret) -> Chain:
    """Return the chain after a response that was no good but for its refresh token: the old one may be spent."""
    return replace(chain, generation=chain.generation + 1, refresh_token=refresh_token)
