"""Where an authorization server publishes its endpoints, and whether what it publishes may be believed.

OpenID Connect Discovery 1.0 section 4, RFC 8414 sections 3 and 3.3. Fetches nothing. The issuer must be identical,
code point by code point: that alone ties the document to the provider that the file names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


class MetadataError(ValueError):
    """The metadata cannot be used. `member` is the member at fault; its value is never in the text."""

    def __init__(self, member: str) -> None:
        super().__init__(f"authorization server metadata: {member}")
        self.member = member


@dataclass(frozen=True, slots=True)
class Metadata:
    """The members of RFC 8414 section 2, OpenID Connect, RFC 9126 and RFC 9207 that are used; None: not published."""

    issuer: str
    token_endpoint: str
    authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None
    introspection_endpoint: str | None = None
    jwks_uri: str | None = None
    end_session_endpoint: str | None = None
    pushed_authorization_request_endpoint: str | None = None
    token_endpoint_auth_methods: tuple[str, ...] = ()
    id_token_algorithms: tuple[str, ...] = ()
    iss_in_response: bool = False  # RFC 9207 section 3
    par_required: bool = False  # RFC 9126 section 5


OPTIONAL_ENDPOINTS = (
    "authorization_endpoint",
    "revocation_endpoint",
    "introspection_endpoint",
    "jwks_uri",
    "end_session_endpoint",
    "pushed_authorization_request_endpoint",
)


def well_known_urls(issuer: str) -> tuple[str, ...]:
    """Return where the metadata of `issuer` may be: OpenID Connect's place first, then RFC 8414's."""
    # Imported here: they cost 100 ms, and a provider whose endpoints stand in the file needs neither.
    from authlib.oauth2.rfc8414 import (  # type: ignore[import-untyped]  # noqa: PLC0415
        get_well_known_url as rfc8414_url,
    )
    from authlib.oidc.discovery import (  # type: ignore[import-untyped]  # noqa: PLC0415
        get_well_known_url as openid_url,
    )

    if not is_endpoint(issuer) or "?" in issuer:
        raise MetadataError("issuer")
    # RFC 8414 section 3.1 removes the terminating "/" before the path is moved; Authlib does not.
    return openid_url(issuer, external=True), rfc8414_url(issuer.rstrip("/"), external=True)


def read_metadata(document: object, issuer: str) -> Metadata:
    """Return the metadata in `document`, which must be of `issuer`; raise `MetadataError`.

    Endpoints are absolute URLs, https unless the issuer itself is http.
    """
    if not isinstance(document, Mapping) or document.get("issuer") != issuer:
        raise MetadataError("issuer")
    schemes = frozenset({"https", urlsplit(issuer).scheme})
    token_endpoint = _endpoint(document, "token_endpoint", schemes)
    if token_endpoint is None:
        raise MetadataError("token_endpoint")
    return Metadata(
        issuer,
        token_endpoint,
        **{name: _endpoint(document, name, schemes) for name in OPTIONAL_ENDPOINTS},
        token_endpoint_auth_methods=_names(document, "token_endpoint_auth_methods_supported"),
        id_token_algorithms=_names(document, "id_token_signing_alg_values_supported"),
        iss_in_response=document.get("authorization_response_iss_parameter_supported") is True,
        par_required=document.get("require_pushed_authorization_requests") is True,
    )


def is_endpoint(url: str, schemes: frozenset[str] = frozenset({"https", "http"})) -> bool:
    """Tell whether `url` is absolute, of one of `schemes`, with a host, without userinfo and fragment."""
    if not _URL_CHARACTERS.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a broken IPv6 literal or port
        return False
    return usable and "@" not in parts.netloc


_URL_CHARACTERS = re.compile(r"[!$-;=?-\[\]_a-z~]+")  # RFC 3986 without "#"


def _endpoint(document: Mapping[str, object], name: str, schemes: frozenset[str]) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not is_endpoint(value, schemes):
        raise MetadataError(name)
    return value


def _names(document: Mapping[str, object], name: str) -> tuple[str, ...]:
    value = document.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise MetadataError(name)
    return tuple(value)
