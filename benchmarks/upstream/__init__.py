"""The API behind every proxy: Debian's nginx with one worker, files of the asked sizes, plain and over TLS.

It answers 401 to everything without a token of the benchmark's form, so that a proxy which forgets the token cannot
look fast, and `/whoami` shows the token that arrived.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.install import NotAvailableError, debian
from benchmarks.places import HERE, LOOPBACK, fill, free_port
from benchmarks.processes import running, wait_until
from benchmarks.scene import TLS_NAME
from benchmarks.wire import answers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Upstream:
    """Ports of the plain and the TLS listener, and the CA bundle of the latter."""

    plain: int
    tls: int
    ca: Path


def body_of(size: int) -> bytes:
    """The body that `/<size>` answers with."""
    return (b'{"profile": "' + b"0123456789abcdef" * (size // 16 + 1))[: size - 2] + b'"}'


def _certificate(directory: Path) -> Path:
    try:
        import trustme  # noqa: PLC0415 - of the `dev` extra
    except ImportError as missing:
        raise NotAvailableError("trustme is missing: install the project with its dev extra") from missing
    authority = trustme.CA()
    leaf = authority.issue_cert(TLS_NAME, LOOPBACK)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    leaf.private_key_pem.write_to_path(directory / "key.pem")
    for index, blob in enumerate(leaf.cert_chain_pems):
        blob.write_to_path(directory / "cert.pem", append=index > 0)
    return directory / "ca.pem"


@contextmanager
def upstream(directory: Path, sizes: Sequence[int]) -> Iterator[Upstream]:
    """Run the upstream with `/<size>` for each size, until the block is left."""
    program = debian("nginx-light", "/usr/sbin/nginx")
    bodies = directory / "bodies"
    bodies.mkdir(parents=True, exist_ok=True)
    for size in sizes:
        (bodies / str(size)).write_bytes(body_of(size))
    found = Upstream(free_port(), free_port(), _certificate(directory))
    values = {
        "USER": "user root;" if os.geteuid() == 0 else "",
        "DIRECTORY": directory,
        "PLAIN": found.plain,
        "TLS": found.tls,
    }
    configuration = fill(HERE / "upstream" / "nginx.conf", directory / "nginx.conf", values)
    with running([program, "-c", configuration, "-e", "stderr"], directory / "upstream.log") as nginx:
        if not wait_until(lambda: answers(found.plain), 10):
            raise NotAvailableError(f"the upstream does not answer: {nginx.died() or 'still starting'}")
        yield found
