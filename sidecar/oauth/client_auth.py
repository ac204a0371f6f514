"""How the client proves itself at the token endpoint (RFC 6749 section 2.3). A new method is one function and one line.

A method takes the registration and the form and returns the header lines to add and the form to send. It sends
nothing. Written here because Authlib's `client_secret_basic` neither form-encodes nor leaves Latin-1.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from urllib.parse import quote_plus

from sidecar.model import Form
from sidecar.settings import ProviderSettings

Headers = list[tuple[str, str]]
Method = Callable[[ProviderSettings, Form], tuple[Headers, Form]]


def authenticate(settings: ProviderSettings, form: Form) -> tuple[Headers, Form]:
    """Return the header lines and the form of a request by the client of `settings`; `form` itself is not changed."""
    return METHODS[settings.client_auth](settings, form)


def _client_secret_basic(settings: ProviderSettings, form: Form) -> tuple[Headers, Form]:
    # RFC 6749 section 2.3.1: both are form-urlencoded (appendix B: UTF-8) first, so a colon in the id cannot split.
    pair = f"{quote_plus(settings.client_id)}:{quote_plus(_secret(settings))}"
    return [("Authorization", "Basic " + base64.b64encode(pair.encode("ascii")).decode("ascii"))], list(form)


def _client_secret_post(settings: ProviderSettings, form: Form) -> tuple[Headers, Form]:
    return [], [*form, ("client_id", settings.client_id), ("client_secret", _secret(settings))]


def _none(settings: ProviderSettings, form: Form) -> tuple[Headers, Form]:
    return [], [*form, ("client_id", settings.client_id)]


def _secret(settings: ProviderSettings) -> str:
    return settings.client_secret.reveal() if settings.client_secret else ""


METHODS: dict[str, Method] = {
    "client_secret_basic": _client_secret_basic,
    "client_secret_post": _client_secret_post,
    "none": _none,
}
"""By the names of the registry of RFC 7591 section 2, which are the values of `client_auth` in the file."""
