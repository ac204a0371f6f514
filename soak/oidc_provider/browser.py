"""A browser that signs in and out by hand: cookies, redirects and forms, over httpx.

It knows the development pages of oidc-provider (sign-in, consent, sign-out) and follows nothing on its own.
"""

from __future__ import annotations

import asyncio
import re
from html import unescape
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import httpx

from soak.oidc_provider.sidecar import COOKIE

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_FORM = re.compile(r"<form[^>]*action=\"([^\"]+)\"[^>]*>(.*?)</form>", re.DOTALL)
_HIDDEN = re.compile(r"<input type=\"hidden\" name=\"([^\"]+)\" value=\"([^\"]*)\"")
_MOST = 12  # steps of one sign-in
_TRIES = 10


class Browser:
    """The browser of one user. `public` is where the sidecar's sign-in is; `again` counts pages that were away."""

    def __init__(self, public: str, issuer: str, user: str) -> None:
        self.user = user
        self.again = 0
        self._public, self._issuer = public, issuer
        self._client = httpx.AsyncClient(timeout=20, trust_env=False, headers={"Connection": "close"})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    @property
    def session(self) -> str:
        """The session's id, "" where there is none."""
        return self._client.cookies.get(COOKIE) or ""

    async def sign_in(self) -> None:
        """Go through a whole sign-in; raise where it does not end with a session."""
        answer = await self._client.get(f"{self._public}/oauth2/login")
        landed = await self._walk(answer, {"login": self.user, "password": "any"})
        told = (await self._client.get(f"{self._public}/oauth2/session")).json()
        if not (landed.startswith(self._public) and self.session and told.get("subject") == self.user):
            raise RuntimeError(f"the sign-in of {self.user} ended at {landed.partition('?')[0]}")

    async def sign_out(self) -> str:
        """Sign out at the sidecar; return where the browser is to go on."""
        for _ in range(_TRIES):
            answer = await self._client.post(f"{self._public}/oauth2/logout", headers={"Origin": self._public})
            if answer.status_code == 303:
                return str(answer.headers["location"])
            if answer.status_code != 503:
                break
            self.again += 1
            await asyncio.sleep(0.5)
        raise RuntimeError(f"the sign-out answered {answer.status_code}")

    async def sign_out_at_provider(self, url: str = "") -> str:
        """Sign out there, by the sidecar's redirect or on the provider's own page; return where that leads."""
        answer = await self._client.get(url or f"{self._issuer}/session/end")
        return await self._walk(answer, {"logout": "yes"})

    async def _walk(self, answer: httpx.Response, typed: dict[str, str]) -> str:
        """Follow redirects and send forms until a page of the sidecar's origin that is not the sign-in, or the end."""
        for _ in range(_MOST):
            url = str(answer.url)
            if answer.is_redirect:
                target = urljoin(url, answer.headers["location"])
                if target.rstrip("/") == self._public:
                    return target
                answer = await self._client.get(target)
                continue
            if answer.status_code != 200:
                raise RuntimeError(f"{url.partition('?')[0]} answered {answer.status_code}")
            form = _FORM.search(answer.text)
            if form is None:
                return url
            hidden = dict(_HIDDEN.findall(form[0]))
            answer = await self._client.post(urljoin(url, unescape(form[1])), data={**hidden, **typed})
        raise RuntimeError(f"{self.user} is sent around")
