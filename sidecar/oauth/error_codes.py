"""The error codes that may be logged: those of the specifications, since an error in other words could hold anything.

RFC 6749 sections 4.1.2.1 and 5.2, RFC 8707 section 2, OpenID Connect Core section 3.1.2.6, RFC 9126 section 2.3.
"""

from __future__ import annotations

KNOWN = frozenset(
    ["access_denied", "account_selection_required", "consent_required", "interaction_required", "invalid_client",
     "invalid_grant", "invalid_request", "invalid_request_object", "invalid_request_uri", "invalid_scope",
     "invalid_target", "login_required", "registration_not_supported", "request_not_supported",
     "request_uri_not_supported", "server_error", "temporarily_unavailable", "unauthorized_client",
     "unsupported_grant_type", "unsupported_response_type"]
)  # fmt: skip
OTHER = "another error"


def shown(error: str) -> str:
    """Return what is logged of an `error`."""
    return error if error in KNOWN else OTHER
