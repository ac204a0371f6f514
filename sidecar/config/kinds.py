"""How one scalar of the file becomes a value: the reader, what it expects, and its place in the JSON Schema.

The models of `schema` annotate their keys with `Reads`; the functions that it calls stand in `units`, `addresses`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from sidecar.config import addresses, units
from sidecar.config.problems import Misfit, either, near
from sidecar.grants import GRANTS
from sidecar.model import Secret
from sidecar.settings import Address, Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

REFERENCE: Final = {"type": "string", "pattern": r"\$\{.+\}"}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SCOPE_TOKEN = re.compile(r"[!#-\[\]-~]+\Z")  # RFC 6749 section 3.3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_ROUTE_NAME = re.compile(r"[!#-\[\]-~]{1,200}\Z")
_KEYED = frozenset(["scope", "audience", "resource", "client_id", "client_secret"])
_OWN_PARAMETERS = _KEYED | frozenset(
    ["grant_type", "refresh_token", "client_assertion", "client_assertion_type", "assertion", "code", "code_verifier",
     "redirect_uri", "subject_token", "subject_token_type"]
)  # fmt: skip
_VISIBLE = re.compile(r"[!-~]+\Z")


class Broken:
    """Stands for a value that has a problem already: no key accepts it, and nobody reports it again."""


BROKEN: Final = Broken()


@dataclass(frozen=True, eq=False)
class Reads:
    """Annotation: the key's text goes through `parse`, which raises `Misfit` for what it cannot take.

    `expected` completes "expected …". `secret` keeps the text out of every problem.
    """

    parse: Callable[[Any], Any]
    expected: str
    json: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    secret: bool = False

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.json)

    def _read(self, given: Any) -> Any:
        if not isinstance(given, str):
            raise Misfit(f"expected {self.expected}")
        if _CONTROL.search(given):
            raise Misfit(f"expected {self.expected}, without control characters", "is there a line break in it?")
        try:
            return self.parse(given)
        except Misfit as misfit:
            raise Misfit(misfit.message or f"expected {self.expected}", misfit.hint) from None


def choice(*words: str, later: Sequence[str] = ()) -> Reads:
    """Return the reader of a key with a few words. `later` are words that this version refuses by name."""

    def parse(text: str) -> str:
        if text in words:
            return text
        if text in later:
            raise Misfit(f"expected {either(words)}: this one is not supported by this version")
        raise Misfit(hint=near(text, words) or _part(text, words))

    return Reads(parse, either(words), {"anyOf": [{"enum": list(words)}, REFERENCE]})


def _part(text: str, words: Sequence[str]) -> str:
    """Return the hint where one word alone holds the text, or is held by it: `basic`, `application`."""
    found = [word for word in words if text and (text.lower() in word or word in text.lower())]
    return near(found[0], found) if len(found) == 1 else ""


def _text(text: str) -> str:
    if not text.strip():
        raise Misfit
    return text


def _secret(text: str) -> Secret:
    if not text.strip():
        raise Misfit("expected a secret that is not empty", "is the variable or file empty?")
    if text != text.strip():
        raise Misfit(
            "expected a secret without spaces around it", "is there a stray space or line in the variable or file?"
        )
    return Secret(text)


def _key(text: str) -> Secret:
    if not _VISIBLE.match(text):
        raise Misfit("expected a key of visible ASCII characters", "it travels in a header: no spaces, no accents")
    return Secret(text)


def _matches(pattern: re.Pattern[str], hint: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not pattern.match(text):
            raise Misfit(hint=hint)
        return text

    return parse


def _scopes(text: str) -> frozenset[str]:
    words = text.split()
    if not words:
        raise Misfit(hint="leave the key out to let the provider decide")
    if not all(_SCOPE_TOKEN.match(word) and not word.endswith(",") for word in words):
        raise Misfit(hint="scopes are separated by spaces, or are entries of a list (RFC 6749 section 3.3)")
    return frozenset(words)


def _method(text: str) -> str:
    addresses.token(text)
    if text == "CONNECT":
        raise Misfit(hint="CONNECT is no route's business; see tunnels.allow")
    if text == "*":
        raise Misfit(hint="leave methods out for all of them")
    if text != text.upper():
        raise Misfit(hint=near(text, ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]))
    return text


def _list_of_one(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


def _parameter(name: str) -> str:
    if not _VISIBLE.match(name):
        raise Misfit
    if name in _OWN_PARAMETERS:
        raise Misfit("the sidecar sets this parameter itself", f"use the key `{name}`" if name in _KEYED else "")
    return name


def _version(text: str) -> str:
    if text != "1":
        raise Misfit(hint="this program reads version 1 of the format")
    return text


def _number(example: str, pattern: str) -> dict[str, Any]:
    numbers = {"type": "number", "exclusiveMinimum": 0}
    return {"anyOf": [numbers, {"type": "string", "pattern": pattern}, REFERENCE], "examples": [example]}


_STRING: Final = {"type": "string", "minLength": 1}
_ONE_OR_MORE: Final = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}

Text = Annotated[str, Reads(_text, "a text", _STRING)]
SecretText = Annotated[Secret, Reads(_secret, "a secret", _STRING, secret=True)]
HeaderKey = Annotated[Secret, Reads(_key, "a key", _STRING, secret=True)]
HiddenText = Annotated[str, Reads(str, "a text", secret=True)]
Name = Annotated[
    str, Reads(_matches(_NAME, "a name has letters, digits, dots, underscores and hyphens"), "a name", _STRING)
]
RouteName = Annotated[
    str, Reads(_matches(_ROUTE_NAME, "a route's name is one word of at most 200 ASCII characters"), "a name", _STRING)
]
Duration = Annotated[float, Reads(units.duration, units.DURATION, _number("2s", r"^[0-9.]+ ?(ms|s|m|h|d)?$"))]
Size = Annotated[int, Reads(units.size, units.SIZE, _number("64KiB", r"^[0-9.]+ ?([KMG]i?)?B?$"))]
Count = Annotated[
    int, Reads(units.count, units.COUNT, {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, REFERENCE]})
]
Rate = Annotated[
    int,
    Reads(
        units.rate,
        units.RATE,
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^[0-9.]+ ?([KMG]i?)?B?$"},
                REFERENCE,
            ]
        },
    ),
]
Switch = Annotated[bool, Reads(units.switch, units.SWITCH, {"anyOf": [{"type": "boolean"}, REFERENCE]})]
Bind = Annotated[Address, Reads(addresses.bind, addresses.BIND, _STRING)]
HostPattern = Annotated[addresses.Place, Reads(addresses.pattern, addresses.HOST, _STRING)]
HostName = Annotated[str, Reads(addresses.host, "a host name such as api.example.com", _STRING)]
PathPrefix = Annotated[
    str, Reads(addresses.prefix, addresses.PREFIX, {"type": "string", "pattern": r"^/[^?#%]*$|\$\{.+\}"})
]
UpstreamUrl = Annotated[
    addresses.Upstream,
    Reads(
        addresses.upstream,
        addresses.UPSTREAM,
        {"type": "string", "pattern": r"^[Hh][Tt][Tt][Pp][Ss]?://[^?#]+$|\$\{.+\}"},
    ),
]
Url = Annotated[str, Reads(addresses.url, addresses.URL, {"type": "string", "pattern": r"^https?://[^#]+$|\$\{.+\}"})]
Issuer = Annotated[
    str, Reads(addresses.issuer, addresses.URL, {"type": "string", "pattern": r"^https?://[^?#]+$|\$\{.+\}"})
]
PublicUrl = Annotated[
    str,
    Reads(
        addresses.public_origin,
        "an origin such as https://app.example.com",
        {"type": "string", "pattern": r"^https?://[^/?#]+/?$|\$\{.+\}"},
    ),
]
ReturnTo = Annotated[
    list[Annotated[str, Reads(addresses.landing, "a URL such as https://app.example.com/")]],
    BeforeValidator(_list_of_one),
    WithJsonSchema(_ONE_OR_MORE),
    Field(min_length=1),
]
OneOrMoreNames = Annotated[list[Name], BeforeValidator(_list_of_one), WithJsonSchema(_ONE_OR_MORE), Field(min_length=1)]
TunnelTarget = Annotated[Tunnel, Reads(addresses.tunnel, addresses.TUNNEL, _STRING)]
Header = Annotated[str, Reads(addresses.header, addresses.HEADER, _STRING)]
CookieName = Annotated[str, Reads(addresses.token, "a cookie name such as sidecar_session", _STRING)]
Methods = Annotated[list[Annotated[str, Reads(_method, "a method such as GET", _STRING)]], Field(min_length=1)]
Names = Annotated[list[Name], Field(min_length=1)]
Scopes = Annotated[
    list[Annotated[frozenset[str], Reads(_scopes, "scopes such as profiles.read")]],
    BeforeValidator(_list_of_one),
    WithJsonSchema(_ONE_OR_MORE),
    Field(min_length=1),
]
Resources = Annotated[
    list[Annotated[str, Reads(addresses.resource, "a URI such as https://api.example.com")]],
    BeforeValidator(_list_of_one),
    WithJsonSchema(_ONE_OR_MORE),
    Field(min_length=1),
]
Pseudonym = Annotated[
    str,
    Reads(lambda text: addresses.token(text) if text else "", "a pseudonym of one word such as sidecar, or nothing"),
]


ParamName = Annotated[str, Reads(_parameter, "a parameter name such as prompt", _STRING)]

CLIENT_AUTH: Final = ("client_secret_basic", "client_secret_post", "none")
LATER_CLIENT_AUTH: Final = (
    "client_secret_jwt", "private_key_jwt", "tls_client_auth", "self_signed_tls_client_auth", "assertion_file",
)  # fmt: skip
LATER_GRANTS: Final = ("token_exchange", "jwt_bearer")

As = Annotated[Literal["app", "user", "none"], choice("app", "user", "none")]
ClientAuth = Annotated[str, choice(*CLIENT_AUTH, later=LATER_CLIENT_AUTH)]
GrantName = Annotated[str, choice(*GRANTS, later=LATER_GRANTS)]
OnOutage = Annotated[Literal["fail", "local"], choice("fail", "local")]
Par = Annotated[Literal["auto", "require", "never"], choice("auto", "require", "never")]
Scheme = Annotated[str, choice("Bearer", later=["DPoP"])]
Unmatched = Annotated[Literal["refuse", "forward"], choice("refuse", "forward")]
Unsafe = Annotated[Literal["invalid_token", "never", "always"], choice("invalid_token", "never", "always")]
Version = Annotated[str, Reads(_version, "1", {"const": 1})]
Workers = Annotated[
    int | Literal["auto"],
    Reads(
        units.workers,
        units.WORKERS,
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": units.MOST_WORKERS}, REFERENCE]},
    ),
]
