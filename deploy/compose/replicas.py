# ruff: noqa: INP001, PLR2004, T201 - a script that talks to its reader and to its own containers
"""Starts replicas.yml and shows that sessions are shared, outlive restarts, and end everywhere: `make replicas`.

Standard library only. Exit code 0 where everything held, 1 where not. `--keep` leaves the containers running.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FILE = Path(__file__).with_name("replicas.yml")
PROXIES, ADMINS = (8080, 8180), (8081, 8181)
ADMIN = {"Authorization": "Bearer demo-admin-token"}
PATIENCE, LIMIT, STEP = 60.0, 1.0, 0.02
LIFE = 20.0  # of an access token: ACCESS_LIFE in replicas.yml
failures: list[str] = []


def compose(*arguments: str) -> str:
    """Run docker-compose, or the plugin of the same name."""
    default = "docker-compose" if shutil.which("docker-compose") else "docker compose"
    command = [*shlex.split(os.environ.get("COMPOSE") or default), "-p", "replicas", "-f", str(FILE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    return done.stdout


def request(port: int, method: str, path: str, headers: dict[str, str]) -> tuple[int, Any]:
    """Send one request to a published port; status 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body else None
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()


def ask(sidecar: int, user: str = "alice") -> str:
    """Ask the API for a user through sidecar 0 or 1; return the status with whose answer it is, or the code."""
    headers = {"Host": "profiles.internal", "X-Api-Key": "legacy-key", "X-Session-Id": f"{user}-session"}
    status, document = request(PROXIES[sidecar], "GET", "/profile", headers)
    return f"{status} {document.get('subject') or document.get('code')}" if document else str(status)


def until(condition: Callable[[], bool]) -> float:
    """Wait for something; return the seconds that it took, `PATIENCE` at most."""
    began = time.monotonic()
    while not condition() and time.monotonic() < began + PATIENCE:
        time.sleep(STEP)
    return time.monotonic() - began


def served(sidecars: Sequence[int] = (0, 1), user: str = "alice") -> bool:
    """Say whether all of these sidecars serve a user."""
    return all(ask(one, user) == f"200 {user}" for one in sidecars)


def note(held: bool, what: str) -> None:
    """Print one line; remember what did not hold."""
    print(f"{'ok  ' if held else 'FAIL'}  {what}", flush=True)
    if not held:
        failures.append(what)


def shared() -> None:
    """A session that was put on one instance serves on the other."""
    took = until(served)
    note(served(), f"the session was put on sidecar-1; both serve it, {took:.1f} s after the start")
    counts = [len(request(port, "GET", "/v1/sessions", ADMIN)[1]["sessions"]) for port in ADMINS]
    note(counts[0] == counts[1] > 0, f"both list the same number of sessions: {counts}")


def killed() -> None:
    """An instance that is killed is not missed, and serves again when it is back."""
    compose("kill", "-s", "SIGKILL", "sidecar-1")
    note(ask(0) == "0" and served([1]), "sidecar-1 is killed; sidecar-2 serves")
    time.sleep(LIFE)
    note(served([1]), f"{LIFE:.0f} s later the token has expired; sidecar-2 has renewed it")
    compose("start", "sidecar-1")
    took = until(lambda: served([0]))
    note(served(), f"sidecar-1 is back and serves after {took:.1f} s, without a sign-in; so does sidecar-2")


def redis_restarted() -> None:
    """Sessions outlive Redis, in its append-only file: no instance remembers them once all were restarted too."""
    compose("kill", "-s", "SIGKILL", "redis")
    note(served(), "Redis is killed; both serve with the valid token that they hold")
    compose("start", "redis")
    ready = until(lambda: all(request(port, "GET", "/readyz", {})[0] == 200 for port in ADMINS))
    took = ready + until(served)
    note(served(), f"Redis is back; both are ready after {ready:.1f} s, and serve after {took:.1f} s at most")
    compose("restart", "redis", "sidecar-1", "sidecar-2")
    took = until(served)
    note(served() and served(user="bob"), f"everything but the provider restarted in order; served after {took:.1f} s")


def ended() -> None:
    """A session that ends on one instance ends on the other within a second."""
    status, _ = request(ADMINS[0], "DELETE", "/v1/sessions/alice-session", ADMIN)
    took = until(lambda: ask(1) == "401 login_required")
    note(
        status == 204 and took < LIMIT,
        f"the session is ended on sidecar-1; sidecar-2 refuses {took * 1000:.0f} ms later",
    )
    note(ask(0) == ask(1) == "401 login_required", f"both answer {ask(1)}")
    note(served(user="bob"), "the other user is served by both")


def main() -> None:
    """Tell it, and end what was started."""
    try:
        compose("down", "-v", "-t", "10")  # what an earlier run left would prove nothing
        compose("up", "-d")
        for part in (shared, killed, redis_restarted, ended):
            part()
        print(f"\nwhat the application saw:\n{compose('logs', '--no-color', 'app')}")
        if failures:
            print(compose("logs", "--no-color", "--tail=40", "sidecar-1", "sidecar-2", "redis"))
    finally:
        if "--keep" not in sys.argv:
            compose("down", "-v", "-t", "10")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
