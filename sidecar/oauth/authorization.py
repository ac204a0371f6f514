"""The authorization request and what comes back to the redirect URI. Pure: random values and answers are arguments.

Code flow only, with PKCE (RFC 7636, S256), `state`, `nonce` (OpenID Connect Core section 3.1.2.1), pushed where asked
for (RFC 9126), and with the check of `iss` against mix-up (RFC 9207 section 2.4). RFC 6749 section 4.1, RFC 9700.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from sidecar.model import Secret
from sidecar.oauth.document import DocumentError, read_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sidecar.model import Form

MAX_CODE = 4096
OWN_PARAMETERS = frozenset(
    ["response_type", "response_mode", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge",
     "code_challenge_method", "request", "request_uri", "client_secret"]
)  # fmt: skip
"""What an authorization request's extra parameters must not replace."""

_CREATED = 201
_VISIBLE = re.compile(r"[ -~]+")
_ERROR = re.compile(r"[ !#-\[\]-~]{1,64}")  # RFC 6749 section 4.1.2.1
_REQUEST_URI = re.compile(r"[!-~]{1,2048}")


class Pending(NamedTuple):
    """A sign-in that was begun: what the callback will be judged by. Everything in it came from us."""

    state: str
    nonce: str
    verifier: str
    provider: str
    issuer: str
    return_to: str
    begun_at: int  # seconds since the epoch
    scopes: str = ""  # `mark` of those asked for


class CallbackError(Exception):
    """The answer at the redirect URI is refused. `reason` is a word of ours, or the server's `error` code."""

    def __init__(self, reason: str, *, told: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.told = told  # the authorization server itself said so


def same(one: str, other: str) -> bool:
    """Compare two texts in a time that does not tell where they differ. Either may hold anything."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))


def challenge(verifier: str) -> str:
    """Return the S256 code challenge of a verifier (RFC 7636 section 4.2)."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def mark(scopes: Iterable[str]) -> str:
    """Return a short text that tells a set of scopes from others: a cookie has no room for many."""
    return hashlib.sha256(" ".join(sorted(scopes)).encode()).hexdigest()[:16]


def authorization_request(
    pending: Pending, client_id: str, redirect_uri: str, scopes: Sequence[str], extra: Iterable[tuple[str, str]] = ()
) -> Form:
    """Return the parameters of the authorization request for `pending`."""
    return [
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", redirect_uri),
        ("scope", " ".join(scopes)),
        ("state", pending.state),
        ("nonce", pending.nonce),
        ("code_challenge", challenge(pending.verifier)),
        ("code_challenge_method", "S256"),
        *extra,
    ]


def token_request(pending: Pending, code: Secret, redirect_uri: str, extra: Iterable[tuple[str, str]] = ()) -> Form:
    """Return the parameters that exchange `code` (RFC 6749 section 4.1.3, RFC 7636 section 4.5)."""
    return [
        ("grant_type", "authorization_code"),
        ("code", code.reveal()),
        ("redirect_uri", redirect_uri),
        ("code_verifier", pending.verifier),
        *extra,
    ]


def with_query(endpoint: str, form: Form) -> str:
    """Return `endpoint` with `form` in its query, beside what is there already (RFC 6749 section 3.1)."""
    separator = "" if endpoint.endswith(("?", "&")) else "&" if "?" in endpoint else "?"
    return f"{endpoint}{separator}{urlencode(form)}"


def pushed(client_id: str, request_uri: str) -> Form:
    """Return what is left of a pushed request for the browser to carry (RFC 9126 section 4)."""
    return [("client_id", client_id), ("request_uri", request_uri)]


def read_push(status: int, body: bytes) -> str | None:
    """Return the `request_uri` of a push's answer (RFC 9126 section 2.2); None where it is not one."""
    try:
        members = read_object(body) if status in (_CREATED, 200) else {}
    except DocumentError:
        return None
    found = members.get("request_uri")
    return found if isinstance(found, str) and _REQUEST_URI.fullmatch(found) else None


def read_parameters(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the parameters of a callback, each once (RFC 6749 section 3.1); raise `CallbackError`."""
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name in parameters:
            raise CallbackError("repeated_parameter")
        parameters[name] = value
    return parameters


def judge_callback(parameters: Mapping[str, str], pending: Pending, *, iss_required: bool) -> Secret:
    """Return the code of an answer that belongs to `pending`; raise `CallbackError`.

    The order is that of trust: first that it is the answer to our own request, then whose it is, then what it says.
    """
    if not same(parameters.get("state", ""), pending.state):
        raise CallbackError("state")
    issuer = parameters.get("iss")
    if issuer is not None and issuer != pending.issuer:
        raise CallbackError("issuer_mixed_up")
    if issuer is None and iss_required:
        raise CallbackError("issuer_missing")
    if "error" in parameters:
        raise CallbackError(_told(parameters["error"]), told=True)
    if "response" in parameters or "id_token" in parameters or "access_token" in parameters:
        raise CallbackError("response_type")  # not what was asked for
    return _code(parameters.get("code", ""))


def _told(error: str) -> str:
    return error if _ERROR.fullmatch(error) else "malformed_error"


def _code(code: str) -> Secret:
    if not code or len(code) > MAX_CODE or not _VISIBLE.fullmatch(code):
        raise CallbackError("code")
    return Secret(code)
