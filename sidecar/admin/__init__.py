"""The admin listener: a desk of its own at a small server."""

from sidecar.admin.prometheus import exposition
from sidecar.admin.server import make_application
from sidecar.admin.state import (
    AdminState,
    Check,
    ProviderStatus,
    Readiness,
    RefusalStatus,
    RouteStatus,
    Status,
)
from sidecar.wire.service import serving

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
