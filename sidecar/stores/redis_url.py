"""Where a Redis is and how it is asked: one frozen value from a store's URL.

Decides which URLs are taken. Opens nothing, and repeats no part of a URL in a message: it may hold a password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMS = {
    "redis": "redis://[user:password@]host:6379/0",
    "rediss": "rediss://[user:password@]host:6379/0",
    "redis+sentinel": "redis+sentinel://[user:password@]host1:26379,host2:26379/master/0",
    "redis+cluster": "redis+cluster://[user:password@]host1:6379,host2:6379",
}
DEFAULT_PORT = {"redis+sentinel": 26379}
TLS_FILES = ("ca", "cert", "key")
OPTIONS = (*TLS_FILES, "prefix", "sentinel_password", "sentinel_username", "timeout", "tls", "wait")
SHORTEST, LONGEST = 0.05, 5.0
MOST_REPLICAS = 10


class Node(NamedTuple):
    """A host and a port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Login:
    """A user of Redis (empty: the default one) and its password; hidden in repr."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS as a client; empty: the system's authorities, no client certificate. Paths of PEM files."""

    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """A Redis server (one node), a master known to Sentinels (`master` is its name), or a cluster.

    `timeout` is in seconds, for a connection and for a reply. `wait` is the number of replicas that have to acknowledge
    a write; None: one, where replicas are connected. `prefix` starts every key.
    """

    scheme: str
    nodes: tuple[Node, ...]
    database: int = 0
    master: str = ""
    login: Login = Login()
    sentinel_login: Login = Login()
    tls: Tls | None = None
    timeout: float = 0.25
    wait: int | None = None
    prefix: str = "sidecar"

    @property
    def clustered(self) -> bool:
        """Whether keys live on several masters."""
        return self.scheme == "redis+cluster"


def parse(url: str) -> RedisTarget:
    """Return what `url` names; `ValueError` says what is wrong with it."""
    scheme = url.partition(":")[0]
    form = f"write {FORMS[scheme]}"
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(form) from None
    if not parts.netloc or "#" in url:
        raise ValueError(f"{form}; special characters of a password are percent-encoded")
    login, _, hosts = parts.netloc.rpartition("@")
    nodes = tuple(_node(text, DEFAULT_PORT.get(scheme, 6379), form) for text in hosts.split(","))
    if len(nodes) > 1 and scheme in ("redis", "rediss"):
        raise ValueError(f"{form}: one host; several are redis+sentinel: or redis+cluster:")
    master, database = _place(scheme, parts.path, form)
    options = _options(scheme, parts.query)
    return RedisTarget(
        scheme,
        nodes,
        database,
        master,
        _login(login, form),
        Login(options.get("sentinel_username", ""), options.get("sentinel_password", "")),
        _tls(scheme, options),
        _number("timeout", options.get("timeout", "0.25"), SHORTEST, LONGEST),
        int(_number("wait", options["wait"], 0, MOST_REPLICAS)) if "wait" in options else None,
        _prefix(options.get("prefix", "sidecar")),
    )


def _node(text: str, default_port: int, form: str) -> Node:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{form}: each host with a port from 1 to 65535")
    return Node(host, int(port))


def _place(scheme: str, path: str, form: str) -> tuple[str, int]:
    """Return the master's name and the number of the database."""
    parts = [unquote(part) for part in path.split("/")[1:]] if path not in ("", "/") else []
    master = parts.pop(0) if scheme == "redis+sentinel" and parts else ""
    database = parts.pop(0) if parts else "0"
    if bool(master) != (scheme == "redis+sentinel") or parts or not database.isdecimal():
        raise ValueError(f"{form}: after the hosts, as shown and nothing else")
    if scheme == "redis+cluster" and int(database):
        raise ValueError(f"{form}: a cluster has database 0 only")
    return master, int(database)


def _login(text: str, form: str) -> Login:
    if not text:
        return Login()
    username, colon, password = text.partition(":")
    if not colon:
        raise ValueError(f"{form}: user:password, or :password for the default user")
    return Login(unquote(username), unquote(password))


def _options(scheme: str, query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs) or not options.keys() <= set(OPTIONS):
        raise ValueError(f"write after the question mark only {', '.join(OPTIONS)}, each once")
    if scheme != "redis+sentinel" and any(name.startswith("sentinel_") for name in options):
        raise ValueError("write sentinel_username and sentinel_password with redis+sentinel: only")
    return options


def _tls(scheme: str, options: Mapping[str, str]) -> Tls | None:
    files = {name: options[name] for name in TLS_FILES if name in options}
    wanted = options.get("tls", "true" if files or scheme == "rediss" else "false")
    if wanted not in ("true", "false") or "" in files.values() or (files and wanted == "false"):
        raise ValueError("write tls=true or tls=false, and ca, cert, key with the paths of files")
    if scheme in ("redis", "rediss") and wanted != ("true" if scheme == "rediss" else "false"):
        raise ValueError("write rediss: for TLS, redis: for none")
    if "key" in files and "cert" not in files:
        raise ValueError("write cert with key: a key needs its certificate")
    return Tls(**files) if wanted == "true" else None


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        number = float(text) if name == "timeout" else int(text)
    except ValueError:
        number = -1.0
    if not least <= number <= most:
        raise ValueError(f"write {name} as a number from {least:g} to {most:g}")
    return number


def _prefix(text: str) -> str:
    if not text or not all(char.isalnum() or char in "-_." for char in text) or not text.isascii():
        raise ValueError("write prefix with letters, digits, - _ and . only")
    return text
