"""A session record as bytes and back, strictly: what is not exactly as written here is not a record of ours.

Pure. The bytes hold secrets in clear: they go to `Vault.seal` and come from `Vault.open`, nowhere else.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from sidecar.credentials.session_record import ABSOLUTE_LIFE, IDLE_LIFE, Bought, Chain, SessionRecord
from sidecar.errors import StoreBrokenError
from sidecar.model import Identity, Secret, Token

FORMAT = 1
_BOUGHT = (
    "value requested_at expires_at scopes token_type generation fingerprint grant audience resources params binding"
)


def encode(record: SessionRecord) -> bytes:
    """Return the bytes of a record, secrets in clear."""
    return orjson.dumps(
        {
            "format": FORMAT,
            "created": record.created,
            "last_used": record.last_used,
            "subject": record.subject,
            "chains": {provider: _chain(chain) for provider, chain in record.chains.items()},
            "idle": record.idle,
            "absolute": record.absolute,
        }
    )


def decode(plain: bytes) -> SessionRecord:
    """Return the record in `plain`; raise `StoreBrokenError` for anything that `encode` does not write."""
    try:
        return _record(orjson.loads(plain))
    except (ValueError, TypeError, KeyError):
        raise StoreBrokenError("not a session record") from None  # the cause may quote a secret


def _chain(chain: Chain) -> dict[str, Any]:
    return {
        "home": chain.home,
        "born": chain.born,
        "sign_in": chain.sign_in,
        "generation": chain.generation,
        "refresh_token": chain.refresh_token.reveal() if chain.refresh_token is not None else None,
        "tokens": [_bought(bought) for bought in chain.tokens],
        "identity": list(chain.identity) if chain.identity is not None else None,
        "id_token": chain.id_token.reveal() if chain.id_token is not None else None,
    }


def _bought(bought: Bought) -> dict[str, Any]:
    token = bought.token
    return {
        "value": token.value.reveal(),
        "requested_at": token.requested_at,
        "expires_at": token.expires_at,
        "scopes": None if token.scopes is None else sorted(token.scopes),
        "token_type": token.token_type,
        "generation": bought.generation,
        "fingerprint": bought.fingerprint,
        "grant": bought.grant,
        "audience": bought.audience,
        "resources": bought.resources,
        "params": bought.params,
        "binding": bought.binding,
    }


def _record(data: object) -> SessionRecord:
    members = _members(data, "format created last_used subject chains", idle=IDLE_LIFE, absolute=ABSOLUTE_LIFE)
    if members["format"] != FORMAT or not isinstance(members["chains"], dict):
        raise ValueError
    return SessionRecord(
        _time(members["created"]),
        _time(members["last_used"]),
        None if members["subject"] is None else _text(members["subject"]),
        {provider: _read_chain(chain) for provider, chain in members["chains"].items()},
        _time(members["idle"]),
        _time(members["absolute"]),
    )


def _read_chain(data: object) -> Chain:
    if isinstance(data, dict):  # records of earlier versions told sign-ins apart by their times
        data = {"sign_in": data.get("born"), **data}
    members = _members(data, "home born sign_in generation refresh_token tokens", identity=None, id_token=None)
    identity = members["identity"]
    return Chain(
        _text(members["home"]),
        _count(members["born"]),
        _count(members["sign_in"]),
        _count(members["generation"]),
        _optional_secret(members["refresh_token"]),
        tuple(_read_bought(bought) for bought in _list(members["tokens"])),
        None if identity is None else _identity(identity),
        _optional_secret(members["id_token"]),
    )


def _read_bought(data: object) -> Bought:
    members = _members(data, _BOUGHT)
    scopes, params = members["scopes"], members["params"]
    return Bought(
        Token(
            _secret(members["value"]),
            _time(members["requested_at"]),
            _time(members["expires_at"]),
            None if scopes is None else frozenset(map(_text, _list(scopes))),
            _text(members["token_type"]),
        ),
        _count(members["generation"]),
        _text(members["fingerprint"]),
        _text(members["grant"]),
        _text(members["audience"]),
        tuple(map(_text, _list(members["resources"]))),
        None if params is None else tuple(map(_pair, _list(params))),
        _text(members["binding"]),
    )


def _members(data: object, names: str, **later: Any) -> dict[str, Any]:
    """Return the members. `later` are those that records of earlier versions lack, with what holds for them."""
    if not isinstance(data, dict) or (later | data).keys() != {*names.split(), *later}:
        raise ValueError
    return {**later, **data}


def _identity(value: object) -> Identity:
    issuer, subject, sid = _list(value)
    return Identity(_text(issuer), _text(subject), _text(sid))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _secret(value: object) -> Secret:
    """Return a token: visible ASCII, or it could not stand in a header or a form."""
    text = _text(value)
    if not (text and text.isascii() and text.isprintable()) or " " in text:
        raise ValueError
    return Secret(text)


def _optional_secret(value: object) -> Secret | None:
    return None if value is None else _secret(value)


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TypeError
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _pair(value: object) -> tuple[str, str]:
    name, text = _list(value)
    return _text(name), _text(text)
