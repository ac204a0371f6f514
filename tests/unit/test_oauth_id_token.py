"""ID tokens and logout tokens: each check of the specifications, with a token that fails it and nothing else."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from sidecar.model import Identity, Secret
from sidecar.oauth import id_token, logout_token
from sidecar.oauth.document import DocumentError
from sidecar.oauth.id_token import AUTH_LEEWAY, LEEWAY, OLDEST, Expected
from sidecar.oauth.logout_token import EVENT, LONGEST_LIFE
from sidecar.oauth.signature import SAFE_ALGORITHMS, JwtError, UnknownKeyError, believed, read_key_set, verified
from tests.support.jwts import CLIENT, ISSUER, NOW, jwk_set, key, part, public, signed, unsigned, weak_rsa, with_mac

EXPECTED = Expected(ISSUER, CLIENT, "the-nonce", SAFE_ALGORITHMS)
KEYS = read_key_set(jwk_set(*public("P-256", "P-384", "P-521", "RSA2048", "Ed25519")))
ACCESS = Secret("the-access-token")
BASE: dict[str, Any] = {
    "iss": ISSUER, "sub": "alice", "aud": CLIENT, "iat": NOW, "exp": NOW + 300, "nonce": "the-nonce", "sid": "s-1",
}  # fmt: skip
AT_HASH = base64.urlsafe_b64encode(hashlib.sha256(b"the-access-token").digest()[:16]).rstrip(b"=").decode()


def claims(*gone: str, **changed: Any) -> dict[str, Any]:
    return {name: value for name, value in {**BASE, **changed}.items() if name not in gone}


def validated(text: str, expected: Expected = EXPECTED, keys: Any = KEYS) -> Identity:
    return id_token.validate(Secret(text), ACCESS, keys, expected, NOW)


GOOD = [
    pytest.param(claims(), id="plain"),
    pytest.param(claims(aud=[CLIENT]), id="audience-in-a-list"),
    pytest.param(claims(aud=[CLIENT, "other"], azp=CLIENT), id="several-audiences-and-we-are-authorized"),
    pytest.param(claims(azp=CLIENT), id="azp"),
    pytest.param(claims(at_hash=AT_HASH), id="at_hash"),
    pytest.param(claims(exp=NOW - LEEWAY + 1), id="expired-within-the-leeway"),
    pytest.param(claims(iat=NOW + LEEWAY), id="issued-ahead-within-the-leeway"),
    pytest.param(claims(iat=NOW - OLDEST, exp=NOW + 1), id="old"),
    pytest.param(claims(iat=NOW + 300, exp=NOW + 600), id="ST-11-of-a-clock-5-min-ahead"),
    pytest.param(claims(iat=NOW - 300, exp=NOW), id="ST-11-of-a-clock-5-min-behind"),
    pytest.param(claims(iat=NOW + 0.5, exp=NOW + 0.9), id="fractions"),
    pytest.param(claims(nbf=NOW), id="nbf"),
    pytest.param(claims(acr="x", amr=["y"], auth_time=1, c_hash="z"), id="claims-that-are-not-asked"),
]


@pytest.mark.parametrize("good", GOOD)
def test_id_token_that_is_right_says_who_signed_in(good: dict[str, Any]) -> None:
    """OpenID Connect Core section 3.1.3.7."""
    assert validated(signed(good)) == Identity(ISSUER, "alice", "s-1")


def test_id_token_without_sid_names_no_session() -> None:
    """`sid` is optional."""
    assert validated(signed(claims("sid"))) == Identity(ISSUER, "alice", "")


BAD = [
    pytest.param(claims("iss"), "iss", id="no-iss"),
    pytest.param(claims(iss="https://evil.example"), "iss", id="ID-12-other-issuer"),
    pytest.param(claims(iss=ISSUER + "/"), "iss", id="issuer-with-a-slash-more"),
    pytest.param(claims(iss=[ISSUER]), "iss", id="issuer-in-a-list"),
    pytest.param(claims("aud"), "aud", id="no-aud"),
    pytest.param(claims(aud="other"), "aud", id="for-another-client"),
    pytest.param(claims(aud=[]), "aud", id="for-nobody"),
    pytest.param(claims(aud={CLIENT: 1}), "aud", id="aud-of-a-strange-type"),
    pytest.param(claims(aud=[CLIENT, "other"]), "azp", id="several-audiences-and-nobody-authorized"),
    pytest.param(claims(aud=[CLIENT, "other"], azp="other"), "azp", id="another-is-authorized"),
    pytest.param(claims(azp="other"), "azp", id="azp-of-another"),
    pytest.param(claims("exp"), "exp", id="no-exp"),
    pytest.param(claims(exp=NOW - LEEWAY), "exp", id="expired"),
    pytest.param(claims(exp=str(NOW + 300)), "exp", id="exp-as-text"),
    pytest.param(claims(exp=True), "exp", id="exp-as-bool"),
    pytest.param(claims(exp=1e300), "exp", id="exp-for-ever"),
    pytest.param(claims(exp=None), "exp", id="exp-null"),
    pytest.param(claims("iat"), "iat", id="no-iat"),
    pytest.param(claims(iat=NOW + LEEWAY + 1, exp=NOW + 900), "iat", id="issued-ahead"),
    pytest.param(claims(iat=NOW - OLDEST - LEEWAY - 1), "iat", id="issued-long-ago"),
    pytest.param(claims(iat=-1), "iat", id="iat-negative"),
    pytest.param(claims(nbf=NOW + LEEWAY + 1), "nbf", id="not-yet"),
    pytest.param(claims(nbf="x"), "nbf", id="nbf-as-text"),
    pytest.param(claims("nonce"), "nonce", id="ID-12-no-nonce"),
    pytest.param(claims(nonce="another"), "nonce", id="ID-12-other-nonce"),
    pytest.param(claims(nonce=None), "nonce", id="nonce-null"),
    pytest.param(claims(nonce="\ud800"), "nonce", id="nonce-that-is-no-text"),
    pytest.param(claims("sub"), "sub", id="no-sub"),
    pytest.param(claims(sub=""), "sub", id="empty-sub"),
    pytest.param(claims(sub=7), "sub", id="sub-as-number"),
    pytest.param(claims(sub="a" * 256), "sub", id="sub-too-long"),
    pytest.param(claims(sub="a\nb"), "sub", id="sub-with-line-end"),
    pytest.param(claims(sid=5), "sid", id="sid-as-number"),
    pytest.param(claims(sid=""), "sid", id="empty-sid"),
    pytest.param(claims(at_hash="x"), "at_hash", id="at_hash-of-another-token"),
    pytest.param(claims(at_hash=None), "at_hash", id="at_hash-null"),
    pytest.param(claims(at_hash=AT_HASH + "="), "at_hash", id="at_hash-padded"),
]


@pytest.mark.parametrize("auth_time", [NOW - 60 - AUTH_LEEWAY, NOW, NOW - 0.5])
def test_user_who_signed_in_lately_enough_is_taken(auth_time: float) -> None:
    """`max_age` was asked for, and the clocks may differ."""
    expected = EXPECTED._replace(authenticated_since=NOW - 60)
    assert validated(signed(claims(auth_time=auth_time)), expected).subject == "alice"


@pytest.mark.parametrize(
    "told", [{}, {"auth_time": NOW - 61 - AUTH_LEEWAY}, {"auth_time": str(NOW)}, {"auth_time": True}]
)
def test_user_who_signed_in_too_long_ago_is_refused(told: dict[str, Any]) -> None:
    """OpenID Connect Core section 3.1.3.7: the age that was asked for is checked, and must be told."""
    with pytest.raises(JwtError) as caught:
        validated(signed(claims(**told)), EXPECTED._replace(authenticated_since=NOW - 60))
    assert caught.value.reason == "auth_time"


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_id_token_with_one_wrong_claim_is_refused(bad: dict[str, Any], reason: str) -> None:
    """Signed as it should be, and still not ours, not now, or not for this sign-in."""
    with pytest.raises(JwtError) as caught:
        validated(signed(bad))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("kind", "alg"),
    [("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512"), ("RSA2048", "RS256"), ("RSA2048", "RS512"), ("RSA2048", "PS256"), ("Ed25519", "Ed25519"), ("Ed25519", "EdDSA")],
)  # fmt: skip
def test_signature_of_every_believed_kind_is_verified(kind: str, alg: str) -> None:
    """With and without the key's name."""
    assert validated(signed(claims(), kind, alg)).subject == "alice"
    assert validated(signed(claims(), kind, alg, kid=None)).subject == "alice"


PEM = key("RSA2048").as_pem(private=False)
FORGED = [
    pytest.param(unsigned(claims()), "alg", id="none"),
    pytest.param(unsigned(claims(), "None"), "alg", id="None"),
    pytest.param(unsigned(claims(), ""), "alg", id="empty-alg"),
    pytest.param(with_mac(claims(), b"client-secret"), "alg", id="mac-by-the-clients-secret"),
    pytest.param(with_mac(claims(), PEM, kid="kid-RSA2048"), "alg", id="mac-by-the-public-key"),
    pytest.param(signed(claims())[:-6] + "AAAAAA", "signature", id="signature-changed"),
    pytest.param(signed(claims()).rpartition(".")[0] + ".", "signature", id="signature-cut-off"),
    pytest.param(signed(claims(), "P-256-other", kid="kid-P-256"), "signature", id="by-another-key-of-that-name"),
    pytest.param(signed(claims(), "P-256-other"), "unknown_key", id="by-a-key-that-is-not-published"),
    pytest.param(signed(claims(), "P-256-other", kid=None), "unknown_key", id="by-a-nameless-key-that-is-not-published"),
    pytest.param(signed(claims(), "P-256", kid="kid-P-384"), "unknown_key", id="curve-confused"),
    pytest.param(signed(claims(), jwk=public("P-256-other")[0], kid="kid-x"), "unknown_key", id="with-its-own-key-along"),
    pytest.param(signed(claims(), jku="https://evil.example/jwks", kid="kid-x"), "unknown_key", id="with-an-address-of-its-key"),
    pytest.param(signed(claims(), crit=["exp"]), "crit", id="critical-extension"),
    pytest.param(signed(claims(), b64=False), "crit", id="unencoded-payload"),
    pytest.param(signed(claims(), typ="at+jwt"), "typ", id="an-access-token"),
    pytest.param(signed(claims(), typ="logout+jwt"), "typ", id="a-logout-token"),
    pytest.param(signed(claims(), kid=5), "kid", id="kid-as-number"),
    pytest.param("", "not_a_jws", id="nothing"),
    pytest.param("a.b", "not_a_jws", id="two-parts"),
    pytest.param("a.b.c.d.e", "not_a_jws", id="encrypted"),
    pytest.param(f"{part(b'[]')}.{part(claims())}.x", "not_a_jws", id="header-is-a-list"),
    pytest.param(f"{part({'alg': 'ES256'})}.{part(b'[]')}.x", "not_a_jws", id="claims-are-a-list"),
    pytest.param(f"{part(b'{')}.{part(claims())}.x", "not_a_jws", id="header-is-no-json"),
    pytest.param(signed(b'{"iss":"https://idp.example","iss":"https://evil.example"}'), "not_a_jws", id="claim-twice"),
    pytest.param(signed(claims()).replace(".", ".%", 1), "not_a_jws", id="no-base64"),
    pytest.param(signed(claims(x="y" * 40_000)), "not_a_jws", id="huge"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), FORGED)
def test_forged_or_broken_token_is_refused(text: str, reason: str) -> None:
    """RFC 8725: no algorithm, key or type but those that are expected."""
    with pytest.raises(JwtError) as caught:
        validated(text)
    assert caught.value.reason == reason
    assert isinstance(caught.value, UnknownKeyError) == (reason in ("unknown_key", "signature"))


@pytest.mark.parametrize(
    ("published", "found"),
    [
        ((), SAFE_ALGORITHMS),
        (("RS256",), ("RS256",)),
        (("none", "HS256", "ES256"), ("ES256",)),
        (("none",), ()),
        (("HS256", "HS512", "ES256K", "x"), ()),
    ],
)
def test_only_safe_algorithms_are_believed(published: tuple[str, ...], found: tuple[str, ...]) -> None:
    """Of those that the metadata names; what is not published is refused though a key would fit."""
    assert believed(published) == found
    if "ES256" not in found:
        with pytest.raises(JwtError):
            verified(signed(claims()), KEYS, found, ("jwt",))


@pytest.mark.parametrize(
    "jwk",
    [
        pytest.param({"kty": "oct", "k": "c2VjcmV0", "kid": "kid-P-256"}, id="a-secret-key"),
        pytest.param(public("P-256", use="enc")[0], id="a-key-for-encryption"),
        pytest.param(public("P-256", alg="ES384")[0], id="a-key-for-another-algorithm"),
        pytest.param({**public("P-256")[0], "x": "AAAA"}, id="no-point-of-the-curve"),
        pytest.param({"kty": "EC"}, id="without-members"),
        pytest.param({"kty": "XX"}, id="of-an-unknown-kind"),
        pytest.param(public("RSA2048", kid="kid-P-256")[0], id="of-another-kind"),
        pytest.param("x", id="no-object"),
        pytest.param(None, id="null"),
    ],
)
def test_key_that_does_not_fit_is_passed_over(jwk: Any) -> None:
    """One strange key in the set harms neither the others nor lets anything through."""
    with pytest.raises(UnknownKeyError):
        validated(signed(claims()), keys=read_key_set(jwk_set(jwk)))
    assert validated(signed(claims()), keys=read_key_set(jwk_set(jwk, *public("P-256")))).subject == "alice"


def test_weak_rsa_key_is_not_believed() -> None:
    """Below 2048 bits anybody may have made the signature."""
    jwk, text = weak_rsa(claims())
    with pytest.raises(UnknownKeyError):
        validated(text, keys=read_key_set(jwk_set(jwk)))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": {}}', b"<html>", b'{"keys": [], "keys": []}'])
def test_document_that_is_no_key_set_is_refused(body: bytes) -> None:
    """RFC 7517 section 5."""
    with pytest.raises(DocumentError):
        read_key_set(body)


@pytest.mark.parametrize(
    ("refreshed", "same"),
    [
        pytest.param(claims("nonce"), True, id="same"),
        pytest.param(claims(iat=1, exp=2), True, id="times-are-not-asked"),
        pytest.param(claims(sub="mallory"), False, id="ID-14-other-sub"),
        pytest.param(claims(iss="https://evil.example"), False, id="ID-14-other-iss"),
        pytest.param(claims(aud="other"), False, id="ID-14-other-aud"),
        pytest.param(claims(azp="other"), False, id="ID-14-other-azp"),
        pytest.param(claims("sub"), False, id="ID-14-no-sub"),
    ],
)
def test_refreshed_id_token_is_about_the_same_person(refreshed: dict[str, Any], same: bool) -> None:
    """OpenID Connect Core section 12.2."""
    assert id_token.same_person(Secret(signed(refreshed)), Identity(ISSUER, "alice", "s-1"), CLIENT) is same


def test_refreshed_id_token_that_cannot_be_read_is_about_nobody() -> None:
    """What cannot be judged is not believed."""
    assert not id_token.same_person(Secret("a.b.c"), Identity(ISSUER, "alice"), CLIENT)


# -- logout tokens -------------------------------------------------------------------------------------------------

LOGOUT: dict[str, Any] = {
    "iss": ISSUER, "aud": CLIENT, "iat": NOW, "exp": NOW + 120, "jti": "j-1", "sub": "alice", "sid": "s-1", "events": {EVENT: {}},
}  # fmt: skip


def logout(*gone: str, **changed: Any) -> dict[str, Any]:
    return {name: value for name, value in {**LOGOUT, **changed}.items() if name not in gone}


def ended(text: str) -> logout_token.Logout:
    return logout_token.validate(text, KEYS, ISSUER, CLIENT, SAFE_ALGORITHMS, NOW)


@pytest.mark.parametrize("kind", ["logout+jwt", "JWT", "application/logout+jwt", "LOGOUT+JWT", None])
@pytest.mark.parametrize("gone", [(), ("sid",), ("sub",)])
def test_logout_token_that_is_right_says_whom_to_sign_out(kind: str | None, gone: tuple[str, ...]) -> None:
    """Back-Channel Logout section 2.4: `sub`, `sid` or both; `typ` is only recommended."""
    found = ended(signed(logout(*gone), typ=kind))
    expected = ("" if "sub" in gone else "alice", "" if "sid" in gone else "s-1")
    assert (found.issuer, found.subject, found.sid, found.jti) == (ISSUER, *expected, "j-1")
    assert found.until == NOW + 120 + LEEWAY


@pytest.mark.parametrize("off", [-LEEWAY, -1, 1, LEEWAY], ids="ST-11{:+.0f}-s".format)
def test_logout_token_of_a_clock_that_is_off_is_taken(off: float) -> None:
    """Also one that lives for the hour that is allowed."""
    assert ended(signed(logout(iat=NOW + off, exp=NOW + off + LONGEST_LIFE))).subject == "alice"


BAD_LOGOUT = [
    pytest.param(logout("iss"), "iss", id="no-iss"),
    pytest.param(logout(iss="https://evil.example"), "iss", id="other-iss"),
    pytest.param(logout("aud"), "aud", id="no-aud"),
    pytest.param(logout(aud="other"), "aud", id="other-aud"),
    pytest.param(logout(aud=["other"]), "aud", id="other-auds"),
    pytest.param(logout(aud=[CLIENT, "other"]), "azp", id="for-others-too"),
    pytest.param(logout("iat"), "iat", id="no-iat"),
    pytest.param(logout(iat=NOW + LEEWAY + 1), "iat", id="from-the-future"),
    pytest.param(logout(iat=NOW - 601 - LEEWAY), "iat", id="old"),
    pytest.param(logout(iat="x"), "iat", id="iat-as-text"),
    pytest.param(logout("exp"), "exp", id="no-exp"),
    pytest.param(logout(exp=NOW - LEEWAY), "exp", id="expired"),
    pytest.param(logout(exp=NOW + LEEWAY + LONGEST_LIFE + 1), "exp", id="valid-for-too-long"),
    pytest.param(logout(exp=None), "exp", id="exp-null"),
    pytest.param(logout("events"), "events", id="no-events"),
    pytest.param(logout(events={}), "events", id="no-event"),
    pytest.param(logout(events=[EVENT]), "events", id="events-in-a-list"),
    pytest.param(logout(events=EVENT), "events", id="events-as-text"),
    pytest.param(logout(events={EVENT: True}), "events", id="event-that-is-no-object"),
    pytest.param(logout(events={EVENT: None}), "events", id="event-null"),
    pytest.param(logout(events={EVENT + "/": {}}), "events", id="another-event"),
    pytest.param(logout(nonce="n"), "nonce", id="a-nonce"),
    pytest.param(logout(nonce=None), "nonce", id="a-nonce-of-null"),
    pytest.param(logout("sub", "sid"), "sub", id="for-nobody"),
    pytest.param(logout(sub=""), "sub", id="empty-sub"),
    pytest.param(logout(sub=1), "sub", id="sub-as-number"),
    pytest.param(logout(sid=1), "sid", id="sid-as-number"),
    pytest.param(logout(sid=""), "sid", id="empty-sid"),
    pytest.param(logout("jti"), "jti", id="no-jti"),
    pytest.param(logout(jti=""), "jti", id="empty-jti"),
    pytest.param(logout(jti=1), "jti", id="jti-as-number"),
    pytest.param(logout(jti="j" * 513), "jti", id="jti-too-long"),
    pytest.param(logout(nbf=NOW + LEEWAY + 1), "nbf", id="not-yet"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_LOGOUT)
def test_logout_token_with_one_wrong_claim_is_refused(bad: dict[str, Any], reason: str) -> None:
    """Back-Channel Logout section 2.6, check by check."""
    with pytest.raises(JwtError) as caught:
        ended(signed(bad, typ="logout+jwt"))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(unsigned(logout()), "alg", id="none"),
        pytest.param(with_mac(logout(), b"client-secret"), "alg", id="mac"),
        pytest.param(signed(logout())[:-6] + "AAAAAA", "signature", id="signature-changed"),
        pytest.param(signed(logout(), "P-256-other"), "unknown_key", id="unknown-key"),
        pytest.param(signed(logout(), typ="at+jwt"), "typ", id="an-access-token"),
        pytest.param(signed(logout(), typ="secevent+jwt"), "typ", id="another-event-token"),
        pytest.param(signed(claims()), "events", id="an-id-token"),
        pytest.param("x", "not_a_jws", id="junk"),
    ],
)
def test_forged_logout_token_is_refused(text: str, reason: str) -> None:
    """Nobody but the issuer signs its users out, and with nothing but a logout token."""
    with pytest.raises(JwtError) as caught:
        ended(text)
    assert caught.value.reason == reason
