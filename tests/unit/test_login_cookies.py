"""The sealed cookie of a sign-in that was begun: what it holds, and everything that it is not taken for."""

from __future__ import annotations

import base64

import pytest

from sidecar.credentials.vault import Vault, generate_key
from sidecar.login import cookies
from sidecar.login.cookies import MOST_BYTES, MOST_PENDING, PENDING_LIFE
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


@pytest.mark.parametrize("before", ["\u00a0", "\u2000", "\u3000", "\u0085", "\x1f", "\x0b"])
def test_cookie_that_browsers_do_not_guard_is_not_ours(before: str) -> None:
    """[ID-12] Any host of the domain may set a name with something before its prefix that only looks like a blank."""
    found = cookies.read([f"a=1; {before}__Host-sid=planted", f"{before}__Host-sid=planted"])
    assert cookies.values(found, "__Host-sid") == []


def held_by_a_browser(count: int, longer: int = 0) -> list[tuple[str, str]]:
    """Return the cookies of so many sign-ins, the newest first."""
    pendings = [PENDING._replace(state=f"{n:043}", begun_at=int(NOW) - n) for n in range(count)]
    named = [(cookies.pending_name(one.state, secure=False), one) for one in pendings]
    return [
        (name, cookies.seal(VAULT, name, one._replace(return_to=one.return_to + "x" * longer))) for name, one in named
    ]


def test_oldest_of_too_many_sign_ins_is_dropped() -> None:
    """So many tabs at once, and what cannot be read goes too; other cookies are not ours to take away."""
    held = held_by_a_browser(MOST_PENDING + 2)
    others = [("sidecar_login_zz", "broken"), ("sid", "x")]
    surplus = cookies.surplus([*held, *others], VAULT, NOW, 400, secure=False)
    assert surplus == ["sidecar_login_zz", held[-1][0], held[-2][0], held[-3][0]]


@pytest.mark.parametrize(("coming", "kept"), [(400, 2), (1400, 1), (3000, 0), (5000, 0)])
def test_long_addresses_leave_room_for_fewer_sign_ins(coming: int, kept: int) -> None:
    """A browser whose Cookie line is too long is served by nobody: all together stay within a bound."""
    held = held_by_a_browser(4, 900)
    length = len(held[0][0]) + len(held[0][1])
    assert coming + kept * length <= MOST_BYTES or not kept
    assert coming + (kept + 1) * length > MOST_BYTES
    surplus = cookies.surplus(held, VAULT, NOW, coming, secure=False)
    assert surplus == [name for name, _ in reversed(held[kept:])]
