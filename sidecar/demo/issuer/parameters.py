"""Reads request parameters strictly: what is repeated, missing or malformed is an error with its specified code.

Decides nothing about clients or tokens. RFC 6749 sections 3.1, 3.2, 3.3 and 5.2; RFC 8707 section 2.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

FORM = "application/x-www-form-urlencoded"
REPEATABLE = frozenset({"resource", "audience"})
SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


class OAuthError(Exception):
    """An error response: `error` is the specification's code, `status` the HTTP status where it is not redirected."""

    def __init__(self, error: str, description: str = "", *, status: int = 400, challenge: str = "") -> None:
        super().__init__(error, description)
        self.error = error
        self.description = description
        self.status = status
        self.challenge = challenge


class Parameters:
    """A form or query: each name once, but for `resource` and `audience`; an empty value counts as absent."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)
        repeated = [name for name, values in self._values.items() if len(values) > 1 and name not in REPEATABLE]
        if repeated:
            raise OAuthError("invalid_request", f"repeated parameter: {repeated[0][:40]}")

    def one(self, name: str) -> str:
        """Return the value, or "" where the parameter is absent."""
        return self._values.get(name, [""])[0]

    def required(self, name: str) -> str:
        """Return the value; raise `invalid_request` where it is absent."""
        if value := self.one(name):
            return value
        raise OAuthError("invalid_request", f"{name} is missing")

    def all(self, name: str) -> tuple[str, ...]:
        """Return every value that is not empty, in order."""
        return tuple(value for value in self._values.get(name, []) if value)


def scopes(text: str) -> frozenset[str]:
    """Return the scope tokens of a space-separated list; raise `invalid_scope` where one is malformed."""
    tokens = text.split(" ") if text else []
    if not all(SCOPE_TOKEN.fullmatch(token) for token in tokens):
        raise OAuthError("invalid_scope", "the scope is malformed")
    return frozenset(tokens)


def narrowed(asked: str, granted: frozenset[str] | None) -> frozenset[str]:
    """Return the scopes asked for, or all that are granted where none is named. `granted` None: anything goes."""
    wanted = scopes(asked)
    if granted is None:
        return wanted
    if not wanted <= granted:
        raise OAuthError("invalid_scope", "more scope than was granted")
    return wanted or granted


def targets(parameters: Parameters, granted: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return `resource` and `audience` in order, or `granted` where none is named (RFC 8707 section 2.2)."""
    resources = parameters.all("resource")
    if not all(_absolute(resource) for resource in resources):
        raise OAuthError("invalid_target", "resource is an absolute URI without a fragment")
    wanted = tuple(dict.fromkeys(resources + parameters.all("audience")))
    if granted and not set(wanted) <= set(granted):
        raise OAuthError("invalid_target", "a resource that was not granted")
    return wanted or granted


def _absolute(uri: str) -> bool:
    return bool(urlsplit(uri).scheme) and "#" not in uri
