"""What the sign-in listener works with: callables and values that the composition root fills in. No aiohttp here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.login.backchannel import Party
from sidecar.login.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.credentials.sessions import Sessions
    from sidecar.credentials.sign_ins import SignIns
    from sidecar.login.cookies import Sealer
    from sidecar.provider import AuthorizationServer
    from sidecar.settings import Login, ProviderSettings


@dataclass(slots=True)
class LoginState:
    """The sign-in listener's view of the program. `clock` gives seconds since the epoch."""

    login: Login
    providers: Mapping[str, AuthorizationServer]
    registered: Mapping[str, ProviderSettings]
    sign_ins: SignIns
    sessions: Sessions
    sealer: Sealer
    clock: Callable[[], float]
    pace: Pace = field(default_factory=Pace)
    results: Counter[str] = field(default_factory=Counter)  # of sign-ins: "begun", "signed_in" or a row of `TROUBLE`

    def party(self, name: str) -> Party:
        """Return a provider and our registration there."""
        return Party(self.providers[name], self.registered[name])

    def configure(
        self, login: Login, providers: Mapping[str, AuthorizationServer], registered: Mapping[str, ProviderSettings]
    ) -> None:
        """Take a new configuration; what was begun under the old one is judged by the new."""
        self.login, self.providers, self.registered = login, providers, registered
