"""Which application is asking: the first source that a request presents decides, be the proof right or wrong."""

from __future__ import annotations

from base64 import b64encode

import pytest

from sidecar.callers.basic import Basic
from sidecar.callers.key_header import KeyHeader
from sidecar.callers.recognise import find_app
from sidecar.errors import Refusal
from sidecar.message import Peer
from sidecar.model import Secret
from tests.support.heads import get

APPS = (
    Basic(Secret("b"), app="billing"),
    KeyHeader("X-Api-Key", Secret("r"), app="reports"),
    Basic(Secret("j"), app="jobs"),
)


def basic(proof: str) -> bytes:
    """Return the line of a proxy's client."""
    return b"Proxy-Authorization: Basic " + b64encode(proof.encode())


KEY, WRONG_KEY = b"X-Api-Key: r", b"X-Api-Key: wrong"


@pytest.mark.parametrize(
    ("lines", "app"),
    [
        pytest.param([basic("billing:b")], "billing", id="basic"),
        pytest.param([basic("jobs:j")], "jobs", id="basic of a later app"),
        pytest.param([KEY], "reports", id="key"),
        pytest.param([KEY, basic("jobs:j")], "jobs", id="both: the first source, though its app stands last"),
        pytest.param([WRONG_KEY, basic("jobs:j")], "jobs", id="right, then wrong"),
        pytest.param([basic("billing:wrong"), KEY], None, id="wrong, then right"),
        pytest.param([basic("nobody:b"), KEY], None, id="nobody's, then right"),
        pytest.param([b"Proxy-Authorization: Bearer x", KEY], None, id="another scheme, then right"),
        pytest.param([WRONG_KEY], None, id="wrong"),
    ],
)
def test_first_source_that_is_presented_decides_which_application_asks(lines: list[bytes], app: str | None) -> None:
    """Recognised but invalid is a refusal, never another source's application."""
    head = get(b"/", *lines)
    if app is None:
        with pytest.raises(Refusal) as refused:
            find_app(APPS, head, Peer())
        assert refused.value.code == "caller_unknown"
    else:
        assert find_app(APPS, head, Peer()) == app
