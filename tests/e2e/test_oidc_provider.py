"""The short form of the run against npm's oidc-provider: `python -m soak.oidc_provider`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from soak.oidc_provider import issuer

ROOT = Path(__file__).parents[2]
SHORT = "--users 6 --ends 1 --life 4 --duration 6 --failovers 1 --between 3"
LONGEST = 180.0


@pytest.mark.slow
@pytest.mark.skipif(bool(issuer.missing()), reason=f"{issuer.missing()} is not here")
def test_two_sidecars_on_sentinel_keep_their_promises_to_a_real_provider() -> None:
    """[RF-02 RF-07 RD-07 ID-05] Rotation, a failover, sign-out, back-channel logout and revocation, under load."""
    if not issuer.installed():
        try:
            issuer.install()
        except subprocess.CalledProcessError:
            pytest.skip("npm could not install oidc-provider, which needs its registry once")
    done = subprocess.run(
        [sys.executable, "-m", "soak.oidc_provider", *SHORT.split()],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=LONGEST,
    )  # fmt: skip
    assert done.stdout, done.stderr
    assert json.loads(done.stdout)["ok"], done.stdout
