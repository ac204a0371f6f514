"""Whether providers are complete and reached safely, and files and store exist. RFC 6749 sections 2.3.1 and 3.2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.config import addresses
from sidecar.config.finding import BEYOND, Finding, World, bad_keys
from sidecar.config.problems import either, near

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.config.sections import Entry, Parsed

_TLS_FILES = ("ca", "cert", "key")
_ENDPOINTS = (
    "issuer",
    "token_endpoint",
    "revocation_endpoint",
    "authorization_endpoint",
    "jwks_uri",
    "end_session_endpoint",
    "pushed_authorization_request_endpoint",
)


def providers_are_complete(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Find every provider complete: where it is, and what our client authenticates with."""
    for entry in parsed.providers.values():
        if not {"issuer", "token_endpoint"} & entry.given:
            yield Finding(entry.path, "expected `issuer` or `token_endpoint`: where the tokens come from", key=True)
        yield from _client_secret(entry)


def _client_secret(entry: Entry) -> Iterator[Finding]:
    auth = entry.model.client_auth or "client_secret_basic"
    if "client_auth" in bad_keys(entry):
        return
    if auth == "none" and "client_secret" in entry.given:
        hint = "remove it, or choose client_secret_basic or client_secret_post"
        yield Finding(
            entry.at("client_secret"), "client_secret has no meaning with `client_auth: none`", hint, key=True
        )
    if auth != "none" and "client_secret" not in entry.given:
        hint = "write client_secret: ${CLIENT_SECRET}, or `client_auth: none` for a public client"
        yield Finding(entry.at("client_secret"), f"is missing: {auth} needs it", hint)


def providers_are_encrypted(parsed: Parsed, _world: World) -> Iterator[Finding]:
    """Let the client's secret and its tokens travel over TLS alone (RFC 6749 section 3.2)."""
    for entry in parsed.providers.values():
        for key in _ENDPOINTS if not entry.model.insecure else ():
            url = getattr(entry.model, key)
            if url is None or "insecure" in bad_keys(entry):
                continue
            origin = addresses.origin_of(url)
            if origin.scheme != "https" and not addresses.is_loopback(origin.host):
                message = "secrets would leave this machine unencrypted"
                yield Finding(entry.at(key), message, f"use https://, or {BEYOND}")


def tls_files_are_there(parsed: Parsed, world: World) -> Iterator[Finding]:
    """Files for TLS exist and hold what they should, and a key has its certificate."""
    for entry in [*parsed.providers.values(), *parsed.routes]:
        tls = entry.model.tls
        names = [(key, getattr(tls, key)) for key in _TLS_FILES] if tls is not None else []
        missing = [key for key, name in names if name is not None and not world.is_file(name)]
        for key in missing:
            hint = "paths start at this file's folder"
            yield Finding(entry.at("tls", key), "there is no such file", hint, found=True)
        if tls is not None and tls.key and not tls.cert:
            if "cert" not in tls.model_fields_set:
                yield Finding(entry.at("tls", "key"), "a key needs its certificate: tls.cert", key=True)
        elif names and not missing:
            yield from _of_use(entry, world.tls_fault(*(name for _, name in names)))


def _of_use(entry: Entry, fault: str) -> Iterator[Finding]:
    if fault == "ca":
        yield Finding(entry.at("tls", "ca"), "the file holds no certificate that can be read (PEM)", found=True)
    elif fault:
        hint = "both are PEM, the key is that certificate's, and it needs no password"
        yield Finding(entry.at("tls", "cert"), "this certificate and its key cannot be used", hint, found=True)


def store_is_known(parsed: Parsed, world: World) -> Iterator[Finding]:
    """Ask the store's kind about its URL; one that has no place for a generated key needs `keys`."""
    store = parsed.single.get("store")
    if store is None or store.model.url is None:
        return
    url = store.model.url.reveal()
    scheme, colon, _ = url.partition(":")
    expected = f"expected {either(f'{kind}:' for kind in world.store_kinds)} at the start"
    if not colon or scheme not in world.store_kinds:
        yield Finding(
            ("store", "url"), expected, near(scheme, world.store_kinds) if colon else "a file is written sqlite:PATH"
        )
        return
    try:
        place = world.place(url)
    except ValueError as error:
        yield Finding(("store", "url"), str(error))
        return
    if place.shared and place.home is None and "keys" not in store.given:
        yield Finding(
            ("store", "url"),
            "this store needs store.keys: instances that share it have to know the same",
            "make one with `sidecar keygen`",
        )


def store_keys_are_keys(parsed: Parsed, world: World) -> Iterator[Finding]:
    """Ask for keys as `sidecar keygen` prints them, newest first, each once."""
    store = parsed.single.get("store")
    keys = (store.model.keys or []) if store is not None else []
    for at, key in enumerate(keys):
        path = ("store", "keys", at)
        try:
            world.check_key(key)
        except ValueError as error:
            yield Finding(path, str(error), "make one with `sidecar keygen`")
        if key in keys[:at]:
            yield Finding(path, "this key stands in the list already", "keep one of the two")


def workers_share_the_store(parsed: Parsed, world: World) -> Iterator[Finding]:
    """Ask for a store that all workers see: with another each of them would have sessions of its own."""
    workers, store = parsed.single.get("workers"), parsed.single.get("store")
    if workers in (None, 1) or store is None or store.model.url is None:
        return
    try:
        shared = world.place(store.model.url.reveal()).shared
    except ValueError:
        return  # `store_is_known` has said so
    if not shared:
        message = f"`workers: {workers}` needs a store that processes can share, and this one is each process's own"
        yield Finding(("store", "url"), message, "write sqlite:sidecar.db, or leave `workers` out")
