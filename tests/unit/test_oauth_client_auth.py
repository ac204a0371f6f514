"""How the client proves itself at the token endpoint."""

from __future__ import annotations

import base64
from urllib.parse import unquote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.model import Form, Secret
from sidecar.oauth.client_auth import METHODS, authenticate
from sidecar.settings import ProviderSettings

FORM: Form = [("grant_type", "client_credentials"), ("resource", "https://a"), ("resource", "https://b")]


SECRET = "s3cret"


def settings(method: str, client_id: str = "app", secret: str | None = SECRET) -> ProviderSettings:
    """Register a client."""
    return ProviderSettings("idp", client_id, client_secret=secret and Secret(secret), client_auth=method)


BASIC = {
    "plain": ("app", "s3cret", "app:s3cret"),
    "trap 1: a plus": ("app", "a+b", "app:a%2Bb"),
    "trap 1: a percent sign": ("app", "100%", "app:100%25"),
    "trap 1: a colon in the id": ("urn:app", "s", "urn%3Aapp:s"),
    "trap 1: a colon in the secret": ("app", "a:b", "app:a%3Ab"),
    "trap 1: a space": ("my app", "a b", "my+app:a+b"),
    "trap 1: non-Latin": (
        "приложение",
        "密",
        f"{'%D0%BF%D1%80%D0%B8%D0%BB%D0%BE%D0%B6%D0%B5%D0%BD%D0%B8%D0%B5'}:%E5%AF%86",
    ),
    "a slash and an ampersand": ("https://a/b", "x&y=z", "https%3A%2F%2Fa%2Fb:x%26y%3Dz"),
    "unreserved characters as they are": ("a-b_c.d~e", "f", "a-b_c.d~e:f"),
    "no secret": ("app", None, "app:"),
}


@pytest.mark.parametrize(("client_id", "secret", "pair"), BASIC.values(), ids=BASIC)
def test_client_secret_basic_form_encodes_both(client_id: str, secret: str | None, pair: str) -> None:
    """RFC 6749 section 2.3.1: id and secret are form-urlencoded in UTF-8, then joined and base64-encoded."""
    headers, form = authenticate(settings("client_secret_basic", client_id, secret), FORM)
    assert headers == [("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())]
    assert form == FORM


@given(client_id=st.text(min_size=1).filter(str.isprintable), secret=st.text().filter(str.isprintable))
def test_client_secret_basic_can_be_read_back(client_id: str, secret: str) -> None:
    """A server that follows the RFC gets exactly the registered id and secret, whatever their characters."""
    (header,), _ = authenticate(settings("client_secret_basic", client_id, secret), FORM)
    name, _, password = base64.b64decode(header[1].removeprefix("Basic ")).decode("ascii").partition(":")
    assert (unquote_plus(name), unquote_plus(password)) == (client_id, secret)


def test_client_secret_post_adds_id_and_secret_to_the_form() -> None:
    """The credentials are parameters, raw: the form's encoding is the sender's."""
    headers, form = authenticate(settings("client_secret_post", secret="a+b%ü"), FORM)
    assert headers == []
    assert form == [*FORM, ("client_id", "app"), ("client_secret", "a+b%ü")]


def test_none_names_the_client_and_sends_no_secret() -> None:
    """A public client only says who it is."""
    headers, form = authenticate(settings("none"), FORM)
    assert (headers, form) == ([], [*FORM, ("client_id", "app")])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_the_form_it_was_given(method: str) -> None:
    """Trap 4: one request's credentials cannot appear in another's; trap 8: a repeated resource stays repeated."""
    before = list(FORM)
    _, form = authenticate(settings(method), FORM)
    assert before == FORM
    assert form is not FORM
    assert urlencode(form).count("resource=") == 2
