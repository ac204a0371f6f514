"""The same way in a real browser: Chromium through Playwright signs in, calls an API through the application, signs out.

The application is a small one in this test, on the same origin as the sign-in, as behind a reverse proxy: it shows who
it is told is signed in, and calls the API through the sidecar with the browser's own Cookie header. Skipped where Playwright or Chromium is not installed.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.support.sign_in import COOKIE, SignIn, free_port, signing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
PAGE = """<!doctype html><html lang="en"><title>App</title><h1>{subject}</h1><p id="api">{api}</p>
<a href="/oauth2/login?return_to=/app">Sign in</a> <a href="/oauth2/logout?return_to=/app">Sign out</a>"""


@asynccontextmanager
async def application(running: SignIn, port: int) -> AsyncIterator[str]:
    """Run the application of the test: every request goes to the sidecar and to the API with the browser's cookies.

    What is below /oauth2/ it passes on to the sign-in listener, as a reverse proxy would.
    """
    own, listener = f"http://127.0.0.1:{port}", running.program.login_address
    proxy = f"http://127.0.0.1:{running.program.proxy_port}"
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:

        async def show(request: web.Request) -> web.Response:
            headers = {"Cookie": request.headers.get("Cookie", "")}
            async with client.get(f"http://{listener}/oauth2/session", headers=headers) as told:
                who = await told.json()
            async with client.get("http://profiles.internal/me", headers=headers, proxy=proxy) as answer:
                api = f"{answer.status} {(await answer.json(content_type=None)).get('subject', '')}".strip()
            text = PAGE.format(subject=who.get("subject", "nobody"), api=api)
            return web.Response(text=text, content_type="text/html")

        async def pass_on(request: web.Request) -> web.Response:
            kept = {name: value for name, value in request.headers.items() if name not in ("Host", "Connection")}
            url, body = f"http://{listener}{request.raw_path}", await request.read()
            async with client.request(
                request.method, URL(url, encoded=True), headers=kept, data=body, allow_redirects=False
            ) as answer:
                hop = ("Content-Length", "Connection", "Content-Encoding", "Transfer-Encoding")
                headers = [(name, value) for name, value in answer.headers.items() if name not in hop]
                return web.Response(status=answer.status, headers=CIMultiDict(headers), body=await answer.read())

        app = web.Application()
        app.router.add_get("/app", show)
        app.router.add_route("*", "/oauth2/{rest:.*}", pass_on)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield own
        finally:
            await runner.cleanup()


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Any]:
    """Run a headless Chromium with an empty profile."""
    async with playwright.async_playwright() as driver:
        context = await driver.chromium.launch_persistent_context(
            str(folder), executable_path=CHROMIUM, headless=True, args=FLAGS, timeout=30_000
        )
        context.set_default_timeout(10_000)
        try:
            yield context
        finally:
            await context.close()


async def test_person_signs_in_uses_the_application_and_signs_out(tmp_path: Path) -> None:
    """Links and buttons alone, under the pages' own policies; the cookie is hidden from scripts, and gone at the end."""
    port = free_port()
    async with (
        signing_in(tmp_path, public=f"http://127.0.0.1:{port}") as running,
        application(running, port) as own,
        chromium(tmp_path / "profile") as context,
    ):
        page = await context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"{own}/app")
        assert await page.inner_text("h1") == "nobody"
        assert await page.inner_text("#api") == "401"
        await page.click("text=Sign in")
        await page.click("text=Sign in as Alice")
        await page.wait_for_url(f"{own}/app")
        assert await page.inner_text("h1") == "alice"
        assert await page.inner_text("#api") == "200 alice"
        assert COOKIE not in await page.evaluate("document.cookie")
        [cookie] = [one for one in await context.cookies() if one["name"] == COOKIE]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
        await page.click("text=Sign out")
        assert await page.inner_text("strong") == "alice"
        await page.click("button")
        await page.wait_for_url(f"{own}/app")
        assert await page.inner_text("h1") == "nobody"
        assert await page.inner_text("#api") == "401"
        assert [one for one in await context.cookies() if "sidecar" in one["name"]] == []
        assert [text for text in complaints if "favicon" not in text and "404" not in text] == []


async def test_page_of_a_refused_callback_can_be_used(tmp_path: Path) -> None:
    """A heading, an alert and a link that begins again, with the style applied under the page's policy."""
    async with signing_in(tmp_path) as running, chromium(tmp_path / "profile") as context:
        page = await context.new_page()
        await page.goto(f"{running.public}/oauth2/callback?code=x&state=y")
        assert await page.inner_text("h1") == "This sign-in cannot go on"
        assert await page.get_by_role("alert").count() == 1
        assert await page.evaluate("getComputedStyle(document.body).maxWidth") != "none"
        await page.get_by_role("link", name="Try again").click()
        assert await page.get_by_role("button", name="Sign in as Alice").is_visible()


async def test_strangers_page_signs_nobody_out(tmp_path: Path) -> None:
    """A form that posts itself from another site, in a browser that has the session's cookie."""
    async with signing_in(tmp_path) as running, chromium(tmp_path / "profile") as context:
        page = await context.new_page()
        await page.goto(f"{running.public}/oauth2/login?return_to=/app")
        await page.click("text=Sign in as Alice")
        await page.wait_for_url(f"{running.public}/app")
        form = f'<form method="post" action="{running.public}/oauth2/logout"><button>Win</button></form>'
        await page.goto(f"data:text/html,{form}")
        await page.click("button")
        await page.wait_for_url("**/oauth2/logout")
        await page.goto(f"{running.public}/oauth2/session")
        assert '"signed_in":true' in await page.inner_text("body")
