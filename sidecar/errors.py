"""Every way this program refuses, with its status, title and RFC 9209 error type.

Decides nothing about requests: it only names outcomes. `REFUSALS` is the one table; the answers, the metrics and the
documentation are made from it (RFC 9457 problem details, RFC 9209 Proxy-Status).
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table of refusals."""

    status: int
    title: str
    proxy_error: str


REFUSALS: dict[str, Row] = {
    "bad_request": Row(400, "The request is malformed or ambiguous", "http_request_error"),
    "caller_unknown": Row(407, "The calling application was not recognised", "http_request_denied"),
    "login_required": Row(401, "A signed-in user session is needed", "http_request_denied"),
    "no_route": Row(403, "No route for this destination", "destination_not_found"),
    "caller_not_allowed": Row(403, "This caller may not use this route", "http_request_denied"),
    "tunnel_refused": Row(403, "Tunnels to this destination are not allowed", "http_request_denied"),
    "destination_refused": Row(403, "The destination's address is refused", "destination_ip_prohibited"),
    "method_refused": Row(403, "This method is refused on this route", "http_request_denied"),
    "target_too_large": Row(414, "The request target is too large", "http_request_error"),
    "headers_too_large": Row(431, "The request headers are too large", "http_request_error"),
    "too_large": Row(413, "The request body is too large", "http_request_error"),
    "timeout": Row(408, "The request took too long to arrive", "http_request_error"),
    "loop": Row(508, "The request came back to the sidecar that sent it", "proxy_loop_detected"),
    "upstream_unreachable": Row(502, "The upstream could not be reached", "destination_unavailable"),
    "upstream_invalid": Row(502, "The upstream broke off or sent an invalid response", "http_protocol_error"),
    "upstream_timeout": Row(504, "The upstream did not answer in time", "http_response_timeout"),
    "provider_refused": Row(502, "The authorization server refused this client", "proxy_configuration_error"),
    "provider_invalid": Row(502, "The authorization server gave an invalid answer", "proxy_internal_error"),
    "provider_unavailable": Row(503, "The authorization server is unavailable", "proxy_internal_error"),
    "store_unavailable": Row(503, "The session store is unavailable", "proxy_internal_error"),
    "overloaded": Row(503, "The sidecar is overloaded or shutting down", "connection_limit_reached"),
    "internal": Row(500, "The sidecar failed", "proxy_internal_error"),
}
"""Key: the row's own name. `target_too_large` and `headers_too_large` are told to callers as code `too_large`."""

PUBLIC_CODE = {"target_too_large": "too_large", "headers_too_large": "too_large", "internal": "internal"}


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a fault of the program
    """This request is answered by the sidecar itself.

    `name` is a row of `REFUSALS`. `detail` is shown to the caller: it holds no secret, no token and no internal
    address. `retry_after` is in seconds. `close` says that the connection cannot be used again.
    """

    def __init__(self, name: str, detail: str = "", *, retry_after: float | None = None, close: bool = False) -> None:
        super().__init__(name, detail)
        self.name = name
        self.row = REFUSALS[name]
        self.detail = detail or self.row.title + "."
        self.retry_after = retry_after
        self.close = close

    @property
    def code(self) -> str:
        """The code that callers see."""
        return PUBLIC_CODE.get(self.name, self.name)


class StoreUnavailableError(Exception):
    """The store cannot be reached, is full, read-only or too slow; nothing is known about the record."""


class LockHeldError(StoreUnavailableError):
    """Another held the lock for as long as we waited: the store is well, what is done under the lock takes long."""


class StoreBrokenError(Exception):
    """The store answered, but what it holds is not ours or is damaged: never overwritten, an operator must look."""


STORE_FAULTS = (StoreUnavailableError, StoreBrokenError)
"""What any operation of a store may raise, and nothing else: see `stores.contract`."""


class SealError(Exception):
    """A sealed value cannot be opened: damaged, moved from another record, or sealed with an unknown key."""
