"""The vault: what it seals opens only where it belongs, and keys come from one place or not at all."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.credentials.vault import (
    KEY_PREFIX,
    Vault,
    generate_key,
    identifier,
    key_ring,
    load_pepper,
    parse_key,
)
from sidecar.errors import SealError, StoreBrokenError
from sidecar.model import Secret
from sidecar.settings import StoreSettings
from sidecar.stores import open_store
from sidecar.stores.memory import MemoryStore

KEYS = [Secret(generate_key()) for _ in range(3)]
VAULT = Vault(KEYS[:1])
NAME, VERSION, PLAIN = "session/{ab}", 7, b"a refresh token that nobody may see"
SEALED = VAULT.seal(NAME, VERSION, PLAIN)


@given(plaintext=st.binary(max_size=300), name=st.text("abc/{}", max_size=20), version=st.integers(0, 2**63 - 1))
def test_a_sealed_value_under_its_own_name_and_version_opens(plaintext, name, version):
    """What was sealed comes back, and is not found in the sealed bytes."""
    sealed = VAULT.seal(name, version, plaintext)
    assert VAULT.open(name, version, sealed) == plaintext
    assert len(plaintext) < 4 or plaintext not in sealed


@given(other=st.text("abc/{}", max_size=20), version=st.integers(0, 2**63 - 1))
def test_a_sealed_value_moved_to_another_name_or_version_is_refused(other, version):
    """A value copied to another record, or an old one put back over a newer version, does not open."""
    if (other, version) != (NAME, VERSION):
        with pytest.raises(SealError, match="another record or version"):
            VAULT.open(other, version, SEALED)


@pytest.mark.parametrize(
    ("name", "version"),
    [("session/{ab", VERSION), (NAME, VERSION + 1), ("", VERSION)],
    ids=["RD-11 shorter name", "RD-11 next version", "RD-11 no name"],
)
def test_a_sealed_value_under_a_close_name_is_refused(name, version):
    """A shortened name or the next version is another record."""
    with pytest.raises(SealError):
        VAULT.open(name, version, SEALED)


@pytest.mark.parametrize("bit", range(len(SEALED) * 8), ids="RD-10 bit {}".format)
def test_a_sealed_value_with_any_flipped_bit_is_refused(bit):
    """No single bit of format, key id, nonce, ciphertext or tag can change unnoticed."""
    damaged = bytearray(SEALED)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealError):
        VAULT.open(NAME, VERSION, bytes(damaged))


@pytest.mark.parametrize("length", [*range(len(SEALED)), len(SEALED) + 1], ids="RD-10 length {}".format)
def test_a_sealed_value_of_another_length_is_refused(length):
    """Neither a cut nor a lengthened value opens, the empty one included."""
    with pytest.raises(SealError):
        VAULT.open(NAME, VERSION, (SEALED + b"\0")[:length])


def test_sealing_twice_gives_different_bytes():
    """Equal plaintexts cannot be told from the store, and no nonce is used twice."""
    assert len({VAULT.seal(NAME, VERSION, PLAIN)[9:21] for _ in range(500)}) == 500


@pytest.mark.parametrize("ring", [KEYS[1:]], ids=["RD-12"])
def test_an_unknown_key_is_named_by_its_id_and_never_shown(ring):
    """The message names the key's id, so that an operator finds it, and holds neither key nor plaintext."""
    with pytest.raises(SealError) as caught:
        Vault(ring).open(NAME, VERSION, SEALED)
    assert SEALED[1:9].hex() in str(caught.value)
    assert not any(key.reveal() in str(caught.value) or key.reveal() in repr(VAULT) for key in KEYS)


@pytest.mark.parametrize("ring", [[KEYS[1], KEYS[0]]], ids=["RD-12"])
def test_a_rotated_ring_opens_old_values_and_seals_with_the_newest_key(ring):
    """An older key of the ring still opens; what it sealed is not current; the old ring cannot open new values."""
    rotated = Vault(ring)
    assert rotated.open(NAME, VERSION, SEALED) == PLAIN
    assert VAULT.is_current(SEALED)
    assert not rotated.is_current(SEALED)
    renewed = rotated.seal(NAME, VERSION + 1, PLAIN)
    assert rotated.is_current(renewed)
    assert Vault([KEYS[1]]).open(NAME, VERSION + 1, renewed) == PLAIN
    with pytest.raises(SealError, match="not among"):
        VAULT.open(NAME, VERSION + 1, renewed)


GOOD = generate_key()
BAD_KEYS = {
    "empty": ("", "starts with"),
    "prefix missing": (GOOD.removeprefix(KEY_PREFIX), "starts with"),
    "cut": (GOOD[:-1], "this one has 47"),
    "cut to a multiple of four": (GOOD[:-4], "this one has 44"),
    "too long": (GOOD + "A", "this one has 49"),
    "line feed": (GOOD + "\n", "this one has 49"),
    "padding": (GOOD[:-1] + "=", "48 letters"),
    "other alphabet": (GOOD[:-1] + "é", "48 letters"),
    "mistyped": (GOOD[:-1] + ("A" if GOOD[-1] != "A" else "B"), "checksum"),
    "a passphrase": ("correct horse battery staple", "starts with"),
}


@pytest.mark.parametrize(("text", "message"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_malformed_key_is_refused_with_its_reason_and_not_repeated(text, message):
    """What is wrong is said; the key's characters are not."""
    with pytest.raises(ValueError, match=message) as caught:
        Vault([Secret(text)])
    assert len(text) < 8 or text[-8:] not in str(caught.value)


@pytest.mark.parametrize("keys", [[], [KEYS[0], KEYS[0]]], ids=["none", "twice"])
def test_a_ring_without_keys_or_with_one_twice_is_refused(keys):
    """A ring has at least one key and each only once."""
    with pytest.raises(ValueError, match="at least one key"):
        Vault(keys)


def test_generated_keys_differ_and_are_whole():
    """Each key is new and holds 32 bytes."""
    keys = {generate_key() for _ in range(50)}
    assert len(keys) == 50
    assert {len(parse_key(Secret(key))) for key in keys} == {32}


@pytest.mark.parametrize(
    "ids", [("a", "A"), ("\u00e9", "e\u0301"), ("a|b", "a"), ("\udcc3\udca9", "\u00e9")], ids="ID-10 {0!a}".format
)
def test_identifiers_of_ids_that_look_alike_differ(ids):
    """No normalisation, no folding of case, no second spelling."""
    assert identifier(b"p" * 32, ids[0]) != identifier(b"p" * 32, ids[1])


@given(st.tuples(st.text(max_size=30), st.text(max_size=30)))
def test_identifiers_of_different_sessions_differ(ids):
    """Two ids have one identifier only if they are the same text."""
    first, second = (identifier(b"p" * 32, session_id) for session_id in ids)
    assert (first == second) == (ids[0] == ids[1])


@pytest.mark.parametrize("session_id", ["the-session-id", "f" * 200], ids=["LK-10", "LK-10 hexadecimal"])
def test_an_identifier_depends_on_the_pepper_and_hides_the_id(session_id):
    """Without the pepper nobody can tell whose record it is."""
    one, other = identifier(b"a" * 32, session_id), identifier(b"b" * 32, session_id)
    assert one != other
    assert len(one) == 64
    assert session_id not in one


# -- the pepper ----------------------------------------------------------------------------------------------------


class PausingStore(MemoryStore):
    """Lets others run between the steps of whoever uses it."""

    async def get(self, key):
        found = await super().get(key)
        await asyncio.sleep(0)
        return found


async def test_the_pepper_made_by_two_at_once_is_one():
    """Whoever loses the race takes the winner's."""
    store = PausingStore()
    peppers = await asyncio.gather(*(load_pepper(store, VAULT) for _ in range(5)))
    assert len(set(peppers)) == 1
    assert len(peppers[0]) == 32
    assert await load_pepper(store, VAULT) == peppers[0]
    assert peppers[0] not in (await store.get("pepper")).value


@pytest.mark.parametrize("ring", [KEYS[1:]], ids=["ST-06"])
async def test_a_pepper_under_another_key_is_refused_and_kept(ring):
    """The wrong key refuses to start, and writes nothing."""
    store = MemoryStore()
    pepper = await load_pepper(store, VAULT)
    before = await store.get("pepper")
    with pytest.raises(SealError, match="not among"):
        await load_pepper(store, Vault(ring))
    assert await store.get("pepper") == before
    assert await load_pepper(store, VAULT) == pepper


async def test_a_pepper_under_an_older_key_is_sealed_again():
    """After a start with the new ring the old key is no longer needed for it."""
    store = MemoryStore()
    pepper = await load_pepper(store, VAULT)
    assert await load_pepper(store, Vault([KEYS[1], KEYS[0]])) == pepper
    assert await load_pepper(store, Vault([KEYS[1]])) == pepper


# -- where keys come from ------------------------------------------------------------------------------------------


async def ring_of(path, keys=()):
    """Open the store, ask for its keys, and close it again."""
    store = open_store(f"sqlite:{path}")
    try:
        return await key_ring(StoreSettings(keys=tuple(keys)), store)
    finally:
        await store.close()


async def fill(path):
    """Put one record into the store."""
    store = open_store(f"sqlite:{path}")
    await store.put("session/1", b"sealed", expected=None, version=1)
    await store.close()


async def test_configured_keys_are_taken_as_they_are(tmp_path):
    """Configured keys win, and no key file is made."""
    assert await ring_of(tmp_path / "s.db", KEYS) == tuple(KEYS)
    assert not (tmp_path / "s.db.key").exists()


async def test_a_memory_store_gets_a_fresh_key_each_time():
    """What ends with the process needs no key that outlives it."""
    rings = [await key_ring(StoreSettings(), MemoryStore()) for _ in range(2)]
    assert rings[0] != rings[1]
    Vault(rings[0])


async def test_a_shared_store_without_keys_is_refused():
    """Instances must agree on keys, so none is made up."""
    store = MemoryStore()
    store.shared = True
    with pytest.raises(ValueError, match=r"store\.keys is required"):
        await key_ring(StoreSettings(), store)


async def test_a_first_start_makes_a_private_key_file_that_later_starts_read(tmp_path):
    """The key file belongs to its owner alone, holds one whole key, and stays."""
    first = await ring_of(tmp_path / "s.db")
    assert stat.S_IMODE((tmp_path / "s.db.key").stat().st_mode) == 0o600
    await fill(tmp_path / "s.db")
    assert await ring_of(tmp_path / "s.db") == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.db", "s.db.key"]


async def test_first_starts_at_once_agree_on_one_key(tmp_path):
    """Two processes that start together end with the same key."""
    rings = await asyncio.gather(*(ring_of(tmp_path / "s.db") for _ in range(6)))
    assert len(set(rings)) == 1


@pytest.mark.parametrize(
    "lose", [Path.unlink, lambda path: path.rename(path.with_suffix(".bak"))], ids=["ST-06 deleted", "ST-06 moved"]
)
async def test_records_without_their_key_file_are_refused(tmp_path, lose):
    """A lost key file is told, never replaced."""
    await ring_of(tmp_path / "s.db")
    await fill(tmp_path / "s.db")
    lose(tmp_path / "s.db.key")
    with pytest.raises(StoreBrokenError, match="is missing"):
        await ring_of(tmp_path / "s.db")
    assert not (tmp_path / "s.db.key").exists()


BROKEN_KEY_FILES = {
    "ST-08 readable by the group": lambda path: path.chmod(0o640),
    "ST-08 readable by all": lambda path: path.chmod(0o604),
    "ST-08 link": lambda path: path.rename(path.with_suffix(".old")) and path.symlink_to(path.with_suffix(".old")),
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_text(path.read_text()[:-5]),
    "not text": lambda path: path.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", BROKEN_KEY_FILES.values(), ids=BROKEN_KEY_FILES)
async def test_a_key_file_that_is_unsafe_or_damaged_is_refused_and_kept(tmp_path, damage):
    """The file is left as it was found; the message shows none of it."""
    key = (await ring_of(tmp_path / "s.db"))[0].reveal()
    path = tmp_path / "s.db.key"
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StoreBrokenError) as caught:
        await ring_of(tmp_path / "s.db")
    assert path.read_bytes() == before
    assert key[12:24] not in str(caught.value)
