"""TLS to a provider: always verified, never less."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from sidecar.model import Granted, Outcome, Secret, Unavailable
from sidecar.provider import AuthorizationServer
from sidecar.reloading import providers_of
from sidecar.settings import ProviderSettings, ProviderTimeout, Settings, Tls
from tests.support.scripted_server import ScriptedServer, always, token

LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@dataclass
class Authority:
    """A certificate authority whose certificate lies in the file `ca`."""

    ca: str
    authority: trustme.CA

    def server(self, *names: str, not_after: dt.datetime | None = None, ask_client: bool = False) -> ssl.SSLContext:
        """Return a server's context with a certificate for `names`."""
        not_before = None if not_after is None else not_after - dt.timedelta(days=1)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert(*names, not_before=not_before, not_after=not_after).configure_cert(context)
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self.authority.configure_trust(context)
        return context


@pytest.fixture
def trusted(tmp_path: Path) -> Authority:
    """Make an authority that the file names."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return Authority(str(tmp_path / "ca.pem"), authority)


async def ask(context: ssl.SSLContext, tls: Tls | None) -> tuple[Outcome, int]:
    """Ask a TLS server for a token; return what came of it and how many requests it read."""
    async with ScriptedServer(always(token()), context) as scripted:
        registration = ProviderSettings(
            "idp",
            "app",
            token_endpoint=f"{scripted.url}/token",
            client_secret=Secret("s"),
            timeout=ProviderTimeout(2, 2),
            tls=tls,
        )
        client = AuthorizationServer(registration, lambda: 0, lambda: 0)
        try:
            async with asyncio.timeout(5):
                outcome = await client.token([("grant_type", "client_credentials")], asked=frozenset())
        finally:
            await client.close()
        return outcome, len(scripted.requests)


async def test_a_certificate_of_the_own_authority_is_accepted(trusted: Authority) -> None:
    """`tls.ca` names who may vouch for the provider."""
    outcome, _ = await ask(trusted.server("127.0.0.1"), Tls(ca=trusted.ca))
    assert isinstance(outcome, Granted)


async def test_server_name_is_the_name_that_is_verified(trusted: Authority) -> None:
    """A provider reached by address is verified by the name in the file."""
    outcome, _ = await ask(trusted.server("idp.example"), Tls(ca=trusted.ca, server_name="idp.example"))
    assert isinstance(outcome, Granted)


@pytest.mark.parametrize("fault", ["unknown authority", "self-signed", "wrong host", "expired"])
async def test_a_certificate_at_fault_is_refused(trusted: Authority, fault: str) -> None:
    """[IDP-15] Nothing is sent to a server that cannot prove its name, and nothing falls back."""
    own = Tls(ca=trusted.ca)
    stranger = Authority("", trustme.CA())
    context, tls = {
        "unknown authority": (stranger.server("127.0.0.1"), own),
        "self-signed": (stranger.server("127.0.0.1"), None),
        "wrong host": (trusted.server("other.example"), own),
        "expired": (trusted.server("127.0.0.1", not_after=LONG_AGO), own),
    }[fault]
    assert await ask(context, tls) == (Unavailable("tls", 1.0), 0)


async def test_a_server_without_tls_is_refused_on_https(trusted: Authority) -> None:
    """[IDP-15] An https endpoint that speaks plain HTTP gets nothing."""
    async with ScriptedServer(always(token())) as scripted:
        registration = ProviderSettings(
            "idp",
            "app",
            token_endpoint=scripted.url.replace("http:", "https:"),
            timeout=ProviderTimeout(2, 0.5),
            tls=Tls(ca=trusted.ca),
        )
        client = AuthorizationServer(registration, lambda: 0, lambda: 0)
        outcome = await asyncio.wait_for(client.token([], asked=frozenset()), 5)
        await client.close()
    assert isinstance(outcome, Unavailable)
    assert scripted.requests == []


async def test_a_client_certificate_is_presented(trusted: Authority, tmp_path: Path) -> None:
    """`tls.cert` and `tls.key` prove the client to a server that asks for it; without them it is refused."""
    leaf = trusted.authority.issue_cert("app.example")
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    with_certificate = Tls(trusted.ca, str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    outcome, _ = await ask(trusted.server("127.0.0.1", ask_client=True), with_certificate)
    assert isinstance(outcome, Granted)
    outcome, received = await ask(trusted.server("127.0.0.1", ask_client=True), Tls(ca=trusted.ca))
    assert isinstance(outcome, Unavailable)
    assert received == 0


def test_tls_files_that_change_are_read_again_at_a_reload(trusted: Authority) -> None:
    """[HR-04] An authority that was replaced in its file is trusted after the reload; others keep what they know."""
    certified = ProviderSettings("idp", "app", issuer="https://idp.example", tls=Tls(ca=trusted.ca))
    plain = ProviderSettings("other", "app", issuer="https://other.example")
    settings = Settings(providers={"idp": certified, "other": plain})
    first = providers_of(settings, {}, {}, lambda: 0)
    assert providers_of(settings, first, settings.providers, lambda: 0) == first
    trustme.CA().cert_pem.write_to_path(trusted.ca)
    second = providers_of(settings, first, settings.providers, lambda: 0)
    assert (second["idp"] is first["idp"], second["other"] is first["other"]) == (False, True)
    Path(trusted.ca).write_text("half of a certi")
    with pytest.raises(ssl.SSLError):
        providers_of(settings, second, settings.providers, lambda: 0)


def test_key_with_a_password_is_refused_and_nobody_is_asked_for_it(trusted: Authority, tmp_path: Path) -> None:
    """[IDP-15] OpenSSL would ask the terminal, and every request would wait until somebody types."""
    leaf = trusted.authority.issue_cert("app.example")
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    sealed = serialization.BestAvailableEncryption(b"secret")
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(key.private_bytes(encoding, form, sealed))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    paths = (trusted.ca, str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    code = (
        f"from sidecar.wire.dial import client_context; from sidecar.settings import Tls; client_context(Tls(*{paths}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as asked:
        try:
            assert asked.wait(20) == 1
        finally:
            asked.kill()
        assert asked.stderr is not None
        assert b"ssl.SSLError" in asked.stderr.read()


@pytest.mark.parametrize("member", ["ca", "cert"])
def test_an_unreadable_tls_file_is_an_error_when_the_provider_is_made(member: str, tmp_path: Path) -> None:
    """A typo in a path is found at start or reload, not by the first user."""
    registration = ProviderSettings(
        "idp", "app", issuer="https://idp.example", tls=Tls(**{member: str(tmp_path / "none.pem")})
    )
    with pytest.raises(OSError, match="No such file"):
        AuthorizationServer(registration, lambda: 0, lambda: 0)
