"""The sealed cookie of a sign-in that was begun: what it holds, and everything that it is not taken for."""

from __future__ import annotations

import base64

import pytest

from sidecar.credentials.vault import Vault, generate_key
from sidecar.login import cookies
from sidecar.login.cookies import MOST_PENDING, PENDING_LIFE
from sidecar.model import Secret
from sidecar.oauth.authorization import Pending

NOW = 1_800_000_000.0
KEY = Secret(generate_key())
VAULT = Vault([KEY])
PENDING = Pending("s" * 43, "n" * 43, "v" * 43, "idp", "https://idp.example", "https://app.example.com/x", int(NOW))
NAME = cookies.pending_name(PENDING.state, secure=True)
VALUE = cookies.seal(VAULT, NAME, PENDING)


def flipped(value: str, at: int) -> str:
    raw = bytearray(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
    raw[at] ^= 1
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_sealed_sign_in_is_read_again() -> None:
    """By the process that sealed it, by another with the same keys, and by one whose newest key is another."""
    assert cookies.unseal(VAULT, NAME, VALUE, NOW) == PENDING
    assert cookies.unseal(Vault([Secret(generate_key()), KEY]), NAME, VALUE, NOW) == PENDING


@pytest.mark.parametrize(
    ("name", "value", "now"),
    [
        pytest.param(NAME, VALUE, NOW + PENDING_LIFE, id="too-old"),
        pytest.param(NAME, VALUE, NOW - 61, id="from-the-future"),
        pytest.param(cookies.pending_name("t" * 43, secure=True), VALUE, NOW, id="under-another-states-name"),
        pytest.param(cookies.pending_name(PENDING.state, secure=False), VALUE, NOW, id="without-the-prefix"),
        pytest.param(NAME, flipped(VALUE, 0), NOW, id="format-changed"),
        pytest.param(NAME, flipped(VALUE, 3), NOW, id="key-id-changed"),
        pytest.param(NAME, flipped(VALUE, 12), NOW, id="nonce-changed"),
        pytest.param(NAME, flipped(VALUE, 60), NOW, id="text-changed"),
        pytest.param(NAME, flipped(VALUE, -1), NOW, id="tag-changed"),
        pytest.param(NAME, VALUE[:-4], NOW, id="cut"),
        pytest.param(NAME, VALUE + "AAAA", NOW, id="longer"),
        pytest.param(NAME, "", NOW, id="empty"),
        pytest.param(NAME, "not base64 !", NOW, id="no-base64"),
        pytest.param(NAME, "A" * 5000, NOW, id="huge"),
        pytest.param(NAME, cookies.seal(Vault([Secret(generate_key())]), NAME, PENDING), NOW, id="another-key"),
        pytest.param(NAME, base64.urlsafe_b64encode(VAULT.seal(f"cookie:{NAME}", 1, b"[1]")).decode(), NOW, id="another-shape"),
        pytest.param(NAME, base64.urlsafe_b64encode(VAULT.seal(NAME, 1, b"[]")).decode(), NOW, id="sealed-as-something-else"),
    ],
)  # fmt: skip
def test_cookie_that_is_not_our_own_for_this_state_is_no_sign_in(name: str, value: str, now: float) -> None:
    """Changed, cut, moved to another name, of another key, or too old: as if there were none."""
    assert cookies.unseal(VAULT, name, value, now) is None


def test_cookie_shows_nothing_of_what_it_holds() -> None:
    """Neither state nor nonce nor verifier nor address can be read from name or value."""
    raw = base64.urlsafe_b64decode(VALUE + "==")
    for text in (PENDING.state, PENDING.nonce, PENDING.verifier, PENDING.return_to):
        assert text not in NAME + VALUE
        assert text.encode() not in raw


def test_longest_cookie_fits_into_what_browsers_take() -> None:
    """Name, value and attributes stay within 4096 bytes for the longest address."""
    pending = PENDING._replace(
        return_to="https://app.example.com/" + "a" * 1476, issuer="https://i.example/" + "b" * 80
    )
    line = cookies.set_cookie(NAME, cookies.seal(VAULT, NAME, pending), PENDING_LIFE, secure=True)
    assert len(line) < 4096


@pytest.mark.parametrize(
    ("secure", "line"),
    [
        (True, "__Host-sid=x; Path=/; Max-Age=5; HttpOnly; SameSite=Lax; Secure"),
        (False, "sid=x; Path=/; Max-Age=5; HttpOnly; SameSite=Lax"),
    ],
)
def test_cookie_is_guarded_as_far_as_browsers_allow(secure: bool, line: str) -> None:
    """Secure with its prefix over https; nothing that a browser on loopback would refuse without."""
    assert cookies.set_cookie("__Host-sid" if secure else "sid", "x", 5, secure=secure) == line
    assert cookies.pending_name("s", secure=secure).startswith("__Host-") is secure


def test_cookies_are_read_from_every_line() -> None:
    """Quotes and spaces aside; what is planted a second time is seen."""
    found = cookies.read(["a=1; sid=x;b", 'sid="y"; sid=x', "sidx=z"])
    assert found == [("a", "1"), ("sid", "x"), ("sid", "y"), ("sid", "x"), ("sidx", "z")]
    assert cookies.values(found, "sid") == ["x", "y"]


def test_oldest_of_too_many_sign_ins_is_dropped() -> None:
    """So many tabs at once, and what cannot be read goes too; other cookies are not ours to take away."""
    held = []
    for number in range(MOST_PENDING + 2):
        pending = PENDING._replace(state=f"{number:043}", begun_at=int(NOW) - number)
        name = cookies.pending_name(pending.state, secure=False)
        held.append((name, cookies.seal(VAULT, name, pending)))
    surplus = cookies.surplus([*held, ("sidecar_login_zz", "broken"), ("sid", "x")], VAULT, NOW, secure=False)
    assert surplus == ["sidecar_login_zz", held[-1][0], held[-2][0], held[-3][0]]
