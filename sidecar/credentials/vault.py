"""Encryption at rest: seals what the store keeps, so that a stolen store gives neither tokens nor session ids.

It decides which key seals and which may open. A sealed value is bound to its record's name and version: moved to
another record, or put back over a newer one, it does not open. It must not log, and no message of it holds a key or a
plaintext. AES-256-GCM (NIST SP 800-38D) with random nonces: one key is good for 2^32 seals.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sidecar.errors import SealError, StoreBrokenError
from sidecar.model import Secret
from sidecar.stores import private_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sidecar.settings import StoreSettings
    from sidecar.stores.contract import Store

KEY_PREFIX = "sidecar-k1."
KEY_BYTES, CHECK_BYTES = 32, 4
KEY_TEXT = re.compile(r"[A-Za-z0-9_-]{48}")  # base64url of the key and its checksum

FORMAT = b"\x01"
ID_BYTES, NONCE_BYTES, TAG_BYTES = 8, 12, 16
HEAD_BYTES = len(FORMAT) + ID_BYTES

PEPPER = "pepper"
PEPPER_BYTES = 32


# -- keys ----------------------------------------------------------------------------------------------------------


def generate_key() -> str:
    """Return a new random key as the configuration takes it: a prefix, then 48 characters with a checksum in them."""
    key = secrets.token_bytes(KEY_BYTES)
    return KEY_PREFIX + base64.urlsafe_b64encode(key + _checksum(key)).decode()


def parse_key(text: Secret) -> bytes:
    """Return the 32 bytes of a key; `ValueError` says what is wrong with its text, without showing it."""
    prefix, body = text.reveal()[: len(KEY_PREFIX)], text.reveal()[len(KEY_PREFIX) :]
    if prefix != KEY_PREFIX:
        raise ValueError(f"a store key starts with {KEY_PREFIX}")
    if not KEY_TEXT.fullmatch(body):
        raise ValueError(f"a store key has 48 letters, digits, - or _ after {KEY_PREFIX}, this one has {len(body)}")
    raw = base64.urlsafe_b64decode(body)
    key, checksum = raw[:KEY_BYTES], raw[KEY_BYTES:]
    if not hmac.compare_digest(checksum, _checksum(key)):
        raise ValueError("a store key's checksum does not match: it was changed or mistyped")
    return key


def _checksum(key: bytes) -> bytes:
    return hashlib.sha256(KEY_PREFIX.encode() + key).digest()[:CHECK_BYTES]


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"sidecar key id\0" + key).digest()[:ID_BYTES]


# -- sealing -------------------------------------------------------------------------------------------------------


class Vault:
    """A key ring, newest first: the first key seals, all of them open."""

    def __init__(self, keys: Sequence[Secret]) -> None:
        """Take keys as `generate_key` makes them; `ValueError` for a malformed key, the same key twice, or none."""
        self._ring = _ring(keys)
        self._newest = next(iter(self._ring))

    @property
    def ids(self) -> list[str]:
        """The names of the keys, newest first: parts of their hashes, which give no key away."""
        return [key_id.hex() for key_id in self._ring]

    def check(self, keys: Sequence[Secret]) -> None:
        """Raise `ValueError` where `keys` cannot replace the ring: the key that has sealed so far must stay in it."""
        if self._newest not in _ring(keys):
            raise ValueError(
                "store.keys lacks the key that records are encrypted with now: keep it in the list, behind the new "
                "one, until `sidecar keys rotate` says that it is not used any more"
            )

    def adopt(self, keys: Sequence[Secret]) -> None:
        """Seal with the first of `keys` from now on, and open with all of them. `ValueError` as by `check`."""
        self.check(keys)
        self._ring = _ring(keys)
        self._newest = next(iter(self._ring))

    def seal(self, name: str, version: int, plaintext: bytes) -> bytes:
        """Return format, key id, nonce and ciphertext, to be stored as `version` of the record `name`."""
        head, nonce = FORMAT + self._newest, secrets.token_bytes(NONCE_BYTES)
        return head + nonce + self._ring[self._newest].encrypt(nonce, plaintext, _bound(head, name, version))

    def open(self, name: str, version: int, sealed: bytes) -> bytes:
        """Return what was sealed under this name and version; `SealError` for anything else."""
        head, nonce, text = _split(sealed)
        cipher = self._ring.get(head[len(FORMAT) :])
        if cipher is None:
            raise SealError(f"sealed with the key {head[len(FORMAT) :].hex()}, which is not among the configured keys")
        try:
            return cipher.decrypt(nonce, text, _bound(head, name, version))
        except InvalidTag:
            raise SealError("a sealed value is damaged or belongs to another record or version") from None

    def key_of(self, sealed: bytes) -> str:
        """Return the name of the key that sealed it; `SealError` where nothing of ours did."""
        head, _, _ = _split(sealed)
        return head[len(FORMAT) :].hex()

    def is_current(self, sealed: bytes) -> bool:
        """Return whether the newest key sealed it; otherwise it should be sealed again."""
        return sealed[:HEAD_BYTES] == FORMAT + self._newest


def _ring(keys: Sequence[Secret]) -> dict[bytes, AESGCM]:
    raw = [parse_key(key) for key in keys]
    ring = {_key_id(key): AESGCM(key) for key in raw}
    if not raw or len(ring) != len(raw):
        raise ValueError("the store needs at least one key, and each key once")
    return ring


def _split(sealed: bytes) -> tuple[bytes, bytes, bytes]:
    if sealed[: len(FORMAT)] != FORMAT or len(sealed) < HEAD_BYTES + NONCE_BYTES + TAG_BYTES:
        raise SealError("a value in the store was not sealed by this program, or is cut")
    return sealed[:HEAD_BYTES], sealed[HEAD_BYTES : HEAD_BYTES + NONCE_BYTES], sealed[HEAD_BYTES + NONCE_BYTES :]


def _bound(head: bytes, name: str, version: int) -> bytes:
    """Return the associated data: all members of fixed length but the last."""
    return head + version.to_bytes(8, "big") + name.encode()


# -- names of records ----------------------------------------------------------------------------------------------


def identifier(pepper: bytes, session_id: str) -> str:
    """Return the name under which a session is stored: 64 hexadecimal digits that do not give the id away."""
    return hmac.digest(pepper, b"session\0" + session_id.encode("utf-8", "surrogatepass"), "sha256").hex()


async def load_pepper(store: Store, vault: Vault, known: bytes | None = None) -> bytes:
    """Return the store's own random pepper, made at the first start; all processes of a store get the same one.

    A store that was emptied gets the `known` one back. `SealError`: the store was written with other keys, and nothing
    was changed. One that an older key of the ring sealed is sealed again with the newest.
    """
    if await store.get(PEPPER) is None:
        sealed = vault.seal(PEPPER, 1, known or secrets.token_bytes(PEPPER_BYTES))
        await store.put(PEPPER, sealed, expected=None, version=1)
    record = await store.get(PEPPER)
    if record is None:
        raise StoreBrokenError("the store does not keep its pepper: was it emptied just now?")
    pepper = vault.open(PEPPER, record.version, record.value)
    if not vault.is_current(record.value):
        version = record.version + 1
        await store.put(PEPPER, vault.seal(PEPPER, version, pepper), expected=record.version, version=version)
    return pepper


# -- where the keys come from --------------------------------------------------------------------------------------


async def key_ring(settings: StoreSettings, store: Store) -> tuple[Secret, ...]:
    """Return the configured keys; where there are none, this store's own.

    A store on disk keeps one in the file PATH.key beside it, made with the empty store; `StoreBrokenError` where that
    file is missing although there are records, malformed, or readable by others. A store that ends with the process
    gets a fresh one. `ValueError`: a store that others share over the network has no place for one.
    """
    if settings.keys:
        return settings.keys
    if store.home:
        return (await _kept_key(store, store.home.with_name(store.home.name + ".key")),)
    if store.shared:
        raise ValueError("store.keys is required: a shared store is encrypted with keys that all instances know")
    return (Secret(generate_key()),)


async def _kept_key(store: Store, path: Path) -> Secret:
    if private_file.check_file(path) is None:
        # Another process that starts at the same time makes the key before its first record: look again.
        if await store.keys("") and private_file.check_file(path) is None:
            raise StoreBrokenError(
                f"{path} is missing, and {store.home} cannot be read without it: restore it from a backup, "
                "give the key as store.keys, or move the store away to start empty"
            )
        private_file.create(path, generate_key().encode() + b"\n")
        private_file.check_file(path)
    return _read_key(path)


def _read_key(path: Path) -> Secret:
    try:
        with private_file.system_errors(path):
            key = Secret(path.read_text("ascii").removesuffix("\n"))
        parse_key(key)
    except ValueError:
        # Nothing of the text or of the decoder's complaint is repeated: it may hold most of a key.
        raise StoreBrokenError(f"{path} does not hold a whole key: restore it from a backup") from None
    return key
