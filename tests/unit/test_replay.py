"""What a 401 means for our token: a table, and no challenge that is a surprise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.replay import Verdict, judge

PASS, RENEW, REPLAY = Verdict.PASS, Verdict.RENEW, Verdict.REPLAY
INVALID = b'Bearer realm="x", error="invalid_token", error_description="a \\"b\\", c"'

TABLE = (
    # challenges, method, unsafe, verdict
    ([], b"GET", "never", REPLAY),
    ([], b"POST", "invalid_token", RENEW),
    ([b""], b"GET", "never", REPLAY),
    ([b"Bearer"], b"GET", "never", REPLAY),
    ([b"bEaReR"], b"PUT", "never", REPLAY),
    ([b"Bearer"], b"POST", "invalid_token", RENEW),
    ([b"Bearer"], b"POST", "always", REPLAY),
    ([INVALID], b"GET", "never", REPLAY),
    ([INVALID], b"POST", "invalid_token", REPLAY),
    ([INVALID], b"PATCH", "never", RENEW),
    ([b"Bearer error=invalid_token"], b"POST", "invalid_token", REPLAY),
    ([b'Bearer error = "invalid_token"'], b"POST", "invalid_token", REPLAY),
    ([b'Basic realm="a", ' + INVALID], b"POST", "invalid_token", REPLAY),
    ([b"Basic", INVALID], b"POST", "invalid_token", REPLAY),
    ([INVALID + b", Basic realm=x"], b"POST", "invalid_token", REPLAY),
    ([b'Bearer error="insufficient_scope"'], b"GET", "always", PASS),
    ([b'Bearer error="insufficient_claims"'], b"GET", "always", PASS),
    ([b'Bearer error="invalid_request"'], b"GET", "always", PASS),
    ([b"Basic realm=x"], b"GET", "always", PASS),
    ([b'Basic realm="Bearer error=invalid_token"'], b"GET", "always", PASS),
    ([b"Negotiate YIIabc=="], b"GET", "always", PASS),
    ([b"Negotiate"], b"GET", "always", PASS),
    ([b'DPoP error="use_dpop_nonce"'], b"GET", "always", PASS),
    ([b'DPoP algs="ES256", error="invalid_token"'], b"GET", "always", PASS),
    ([b'NotBearer error="invalid_token"'], b"GET", "always", PASS),
)


@pytest.mark.parametrize(("challenges", "method", "unsafe", "verdict"), TABLE)
def test_verdict_on_a_401(challenges: list[bytes], method: bytes, unsafe: str, verdict: Verdict):
    """[UP-12, UP-13, RT-01 … RT-09, PD-06] Replayed where nothing can have happened twice, else renewed, else passed."""
    assert judge(challenges, method, unsafe) is verdict


@given(challenges=st.lists(st.binary(max_size=40), max_size=3), method=st.sampled_from([b"GET", b"POST"]))
def test_any_challenge_has_a_verdict(challenges: list[bytes], method: bytes):
    """Whatever an upstream writes there, the outcome is one of three, and never a replay of an unsafe method by guess."""
    verdict = judge(challenges, method, "invalid_token")
    assert verdict in Verdict
    if method == b"POST" and not any(b"invalid_token" in challenge for challenge in challenges):
        assert verdict is not REPLAY
