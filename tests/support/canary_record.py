"""What a canary run keeps: a registry of every secret, and everything that the product showed, as files to be searched.

The registry stands outside of what is searched. Secrets are read off what the tests' authorization servers issue and
are sent, and off what callers and operators send to the sidecar.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.support.canary_search import unsearchable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MEMBERS = frozenset({
    "access_token", "refresh_token", "id_token", "subject_token", "actor_token", "client_secret", "client_assertion",
    "assertion", "code", "code_verifier", "logout_token", "token", "password", "state", "nonce", "session",
})  # fmt: skip
CARRIERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-session-id", "x-api-key"})
SESSION_PATH = re.compile(r"/v1/sessions/([^/?#]+)")
STORE_SUFFIXES = ("-wal", "-shm", "-journal")
SQLITE = b"SQLite format 3\0"


class Record:
    """One run. `found` is the folder that is searched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found = folder / "found"
        self.found.mkdir(parents=True)
        self.secrets: dict[str, str] = {}
        self.short: dict[str, str] = {}
        self._count = 0
        # Line by line: what a process that died had registered until then is looked for all the same.
        path = folder / "registry.jsonl"
        self._registry = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", buffering=1)

    # -- secrets ------------------------------------------------------------------------------------------------

    def secret(self, value: object, kind: str) -> None:
        """Register one secret."""
        if isinstance(value, str) and value:
            known = self.short if unsearchable(value) else self.secrets
            if value not in known:
                known[value] = kind
                if not self._registry.closed:
                    self._registry.write(json.dumps([kind, value]) + "\n")

    def members(self, document: object) -> None:
        """Register what stands under a secret's name in a form or a JSON object."""
        items: Iterable[tuple[Any, Any]] = document.items() if isinstance(document, dict) else ()
        for name, value in items:
            if name in MEMBERS:
                self.secret(value, str(name))

    def request(self, target: str, headers: Iterable[tuple[str, str]], body: bytes | None) -> None:
        """Register the secrets of a request to the sidecar."""
        with suppress(ValueError):
            self.members(dict(parse_qsl(urlsplit(target).query)))
        for session in SESSION_PATH.findall(target):
            self.secret(unquote(session), "session id")
        for name, value in headers:
            if name.lower() in CARRIERS:
                self._header(name.lower(), value)
        with suppress(ValueError):
            self.members(json.loads(body or b""))

    def _header(self, name: str, value: str) -> None:
        if name == "cookie":
            for pair in value.split(";"):
                self.secret(pair.partition("=")[2].strip(' "'), "cookie")
            return
        scheme, _, rest = value.partition(" ")
        if scheme.lower() == "basic":
            with suppress(ValueError):
                self.secret(base64.b64decode(rest).decode().partition(":")[2], "caller's password")
        self.secret(rest if name.endswith("authorization") else value, f"{name} header")

    def environ(self, environ: Mapping[str, str]) -> None:
        """Register what a sidecar is given in its environment: references of the configuration are secrets."""
        for name, value in environ.items():
            if re.search(r"SECRET|TOKEN|KEY|PASSWORD", name):
                self.secret(value, f"variable {name}")

    # -- what was shown -----------------------------------------------------------------------------------------

    def text(self, kind: str, content: bytes) -> None:
        """Keep a text that the product showed."""
        if content:
            self._name(kind).write_bytes(content)

    def files(self, kind: str, paths: Iterable[Path]) -> None:
        """Keep copies of files as they are now; some may go away meanwhile."""
        for path in paths:
            with suppress(OSError):
                shutil.copyfile(path, self._name(f"{kind} {path.name}"))

    def stores(self, folder: Path) -> None:
        """Keep copies of the SQLite files below a folder, write-ahead logs included."""
        self.files("store", [path for path in folder.rglob("*") if is_store(path)])

    def close(self) -> None:
        """End the registry."""
        self._registry.close()

    def _name(self, kind: str) -> Path:
        self._count += 1
        path, _, name = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")
        test = f"{path.rpartition('/')[2]} {name}"
        return self.found / re.sub(r"[^\w.-]+", "_", f"{self._count:06d} {kind} {test}")[:120]


def is_store(path: Path) -> bool:
    """Say whether a file is one of SQLite's."""
    if path.name.endswith(STORE_SUFFIXES):
        return True
    if not path.is_file():  # a named pipe would be waited for
        return False
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE
    return False
