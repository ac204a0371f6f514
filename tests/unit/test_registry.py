"""Which spec is known after a reload, and to which authorization server its token requests go."""

from __future__ import annotations

from typing import Any, cast

from sidecar.credentials.registry import FORMER, Registry
from sidecar.model import TokenSpec


def spec(scope: str, issuer: str = "https://idp.example") -> TokenSpec:
    return TokenSpec("idp", issuer, "app", "session", scopes=frozenset([scope]))


def specs(*given: TokenSpec) -> dict[str, TokenSpec]:
    return {one.fingerprint: one for one in given}


def server(name: str) -> dict[str, Any]:
    """Return the authorization server `idp` of one configuration: the registry only hands it on."""
    return {"idp": cast("Any", name)}


def test_spec_of_a_former_configuration_is_known_after_several_reloads() -> None:
    """[HR-03] A request that began three configurations ago can still have its token renewed."""
    registry = Registry(specs(spec("a")), server("1"))
    for scope in ("b", "c", "d"):
        registry.reconfigure(specs(spec(scope)), server("1"))
    assert [registry.bound(spec(scope).fingerprint) is not None for scope in "abcde"] == [True] * 4 + [False]


def test_former_spec_goes_to_the_server_as_it_is_configured_now() -> None:
    """[HR-04] Neither a renewal nor a revocation uses a client secret or an endpoint that was replaced."""
    registry = Registry(specs(spec("a"), spec("b")), server("old"))
    registry.reconfigure(specs(spec("a")), server("new"))
    for scope in "ab":
        bound = registry.bound(spec(scope).fingerprint)
        assert bound is not None
        assert bound.server == cast("Any", "new")
    assert registry.server("idp", bound.home) == cast("Any", "new")


def test_former_spec_of_another_issuer_stays_with_its_own_server() -> None:
    """A refresh token never goes to another issuer than its own."""
    registry = Registry(specs(spec("a")), server("old"))
    registry.reconfigure(specs(spec("a", "https://other.example")), server("new"))
    bound = registry.bound(spec("a").fingerprint)
    assert bound is not None
    assert bound.server == cast("Any", "old")
    assert registry.server("idp", bound.home) == cast("Any", "old")


def test_former_specs_are_bounded() -> None:
    """Reloads without end do not fill the memory."""
    registry = Registry(specs(spec("first")), server("1"))
    many = [spec(f"s{number}") for number in range(FORMER + 1)]
    registry.reconfigure(specs(*many), server("1"))
    assert registry.bound(spec("first").fingerprint) is not None
    registry.reconfigure(specs(spec("last")), server("1"))
    assert registry.bound(spec("first").fingerprint) is None
    assert all(registry.bound(one.fingerprint) for one in many)
