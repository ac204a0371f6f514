"""Read a JSON object that an authorization server sent (RFC 8259), as strictly as a security decision needs.

Decides only whether the bytes are one unambiguous JSON object; what its members mean is for the others of this
package. Refuses duplicate names, NaN and Infinity, anything but UTF-8, and nesting that the parser cannot bear.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_BYTES = 1024 * 1024
"""The longest body, after content decoding, that is read from an authorization server."""


class DocumentError(ValueError):
    """The bytes are not one unambiguous JSON object. `reason` names the class of fault, never the content."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_object(body: bytes) -> dict[str, Any]:
    """Return the members of the JSON object in `body`; raise `DocumentError`."""
    if not body.strip():
        raise DocumentError("empty")
    if len(body) > MAX_BYTES:
        raise DocumentError("too_large")
    try:
        # A byte order mark is let pass (RFC 8259 section 8.1). RecursionError: the parser's own bound on nesting.
        document = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_members, parse_constant=_refuse)
    except DocumentError:
        raise
    except (ValueError, RecursionError):
        raise DocumentError("not_json") from None  # the cause quotes the body
    if not isinstance(document, dict):
        raise DocumentError("not_an_object")
    return document


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise DocumentError("duplicate_member")
    return members


def _refuse(_constant: str) -> NoReturn:
    raise DocumentError("not_json")
