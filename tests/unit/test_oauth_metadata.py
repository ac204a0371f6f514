"""Where metadata is looked for, and which is believed."""

from __future__ import annotations

import pytest

from sidecar.oauth.metadata import Metadata, MetadataError, is_endpoint, read_metadata, well_known_urls

ISSUER = "https://idp.example/tenant"
DOCUMENT = {"issuer": ISSUER, "token_endpoint": "https://idp.example/token"}

PLACES = {
    "https://idp.example": ("https://idp.example/.well-known/{}", ""),
    "https://idp.example/": ("https://idp.example/.well-known/{}", ""),
    "https://idp.example:8443/a/b": ("https://idp.example:8443/.well-known/{}/a/b", "/a/b"),
    "https://idp.example/a/": ("https://idp.example/.well-known/{}/a", "/a"),
    "http://[::1]:9000/r": ("http://[::1]:9000/.well-known/{}/r", "/r"),
}


@pytest.mark.parametrize("issuer", PLACES)
def test_well_known_urls_of_an_issuer(issuer: str) -> None:
    """OpenID Connect appends to the issuer's path; RFC 8414 inserts before it, without a terminating slash."""
    rfc8414, path = PLACES[issuer]
    origin = rfc8414.partition("/.well-known")[0]
    assert well_known_urls(issuer) == (
        f"{origin}{path}/.well-known/openid-configuration",
        rfc8414.format("oauth-authorization-server"),
    )


@pytest.mark.parametrize(
    "issuer", ["", "idp.example", "https://idp.example/?t=1", "https://idp.example/#x", "ftp://x", "https://u:p@idp"]
)
def test_an_issuer_that_is_no_plain_url_has_no_metadata(issuer: str) -> None:
    """RFC 8414 section 2: an issuer has no query and no fragment."""
    with pytest.raises(MetadataError, match="issuer"):
        well_known_urls(issuer)


def test_metadata_is_read_by_name() -> None:
    """Each endpoint lands in its own field; what is not published is None."""
    optional = {
        name: f"https://idp.example/{name}"
        for name in (
            "authorization_endpoint",
            "revocation_endpoint",
            "introspection_endpoint",
            "jwks_uri",
            "end_session_endpoint",
            "pushed_authorization_request_endpoint",
        )
    }
    assert read_metadata(DOCUMENT, ISSUER) == Metadata(ISSUER, "https://idp.example/token")
    methods = ["client_secret_post", "none"]
    assert read_metadata(
        {**DOCUMENT, **optional, "token_endpoint_auth_methods_supported": methods}, ISSUER
    ) == Metadata(ISSUER, "https://idp.example/token", **optional, token_endpoint_auth_methods=tuple(methods))


@pytest.mark.parametrize(
    "issuer",
    [
        None,
        7,
        "",
        ISSUER + "/",
        ISSUER.upper(),
        "https://idp.example",
        "https://idp.example:443/tenant",
        "https://evil.example/tenant",
    ],
)
def test_metadata_of_another_issuer_is_refused(issuer: object) -> None:
    """[IDP-16] The issuer must be identical, code point by code point."""
    with pytest.raises(MetadataError, match="issuer"):
        read_metadata({**DOCUMENT, "issuer": issuer}, ISSUER)


@pytest.mark.parametrize("document", [None, [], "x", {}])
def test_metadata_that_is_no_object_is_refused(document: object) -> None:
    """[IDP-16] Nothing says whose it is."""
    with pytest.raises(MetadataError, match="issuer"):
        read_metadata(document, ISSUER)


UNUSABLE = [
    "",
    "/token",
    "//idp.example/token",
    "http://idp.example/token",
    "ftp://idp.example/token",
    "https:///token",
    "https://user:pw@idp.example/token",
    "https://idp.example/token#f",
    "https://idp.example/to ken",
    "https://idp.example/\r\nX: 1",
    "https://idp.example:99999/",
    "https://idp.example:0/",
    "https://[::1/",
    "https://idp.exämple/",
    "https:\\\\idp.example",
    7,
    ["https://idp.example/token"],
]


@pytest.mark.parametrize("member", ["token_endpoint", "revocation_endpoint", "jwks_uri"])
@pytest.mark.parametrize("url", UNUSABLE)
def test_an_endpoint_that_is_not_an_absolute_https_url_is_refused(member: str, url: object) -> None:
    """An endpoint is where secrets are sent: absolute, https, nothing ambiguous; the value is not in the message."""
    with pytest.raises(MetadataError) as raised:
        read_metadata({**DOCUMENT, member: url}, ISSUER)
    assert raised.value.member == member
    assert "pw" not in str(raised.value)


def test_a_token_endpoint_is_required() -> None:
    """Metadata without a token endpoint is of no use here."""
    with pytest.raises(MetadataError, match="token_endpoint"):
        read_metadata({"issuer": ISSUER}, ISSUER)


def test_an_http_issuer_may_have_http_endpoints() -> None:
    """Trap 9: a provider inside a compose network has neither https nor a public name."""
    document = {"issuer": "http://idp:8080", "token_endpoint": "http://idp:8080/token", "jwks_uri": "https://idp/jwks"}
    assert read_metadata(document, "http://idp:8080").jwks_uri == "https://idp/jwks"


@pytest.mark.parametrize("methods", ["client_secret_basic", [1], {}])
def test_auth_methods_must_be_a_list_of_names(methods: object) -> None:
    """A wrong type is a fault of the document, not an empty list."""
    with pytest.raises(MetadataError, match="token_endpoint_auth_methods_supported"):
        read_metadata({**DOCUMENT, "token_endpoint_auth_methods_supported": methods}, ISSUER)


def test_an_endpoint_may_have_a_query() -> None:
    """RFC 6749 section 3.2 allows a query component."""
    assert is_endpoint("https://idp.example/token?tenant=a%20b&x={}".replace("{}", "1"))
