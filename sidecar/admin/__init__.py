"""The admin listener, an aiohttp application of its own."""

from sidecar.admin.prometheus import exposition
from sidecar.admin.server import make_application, serving
from sidecar.admin.state import (
    AdminState,
    Check,
    ProviderStatus,
    Readiness,
    RefusalStatus,
    RouteStatus,
    Status,
)

__all__ = [
    "AdminState",
    "Check",
    "ProviderStatus",
    "Readiness",
    "RefusalStatus",
    "RouteStatus",
    "Status",
    "exposition",
    "make_application",
    "serving",
]
