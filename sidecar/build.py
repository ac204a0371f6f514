"""How this installation was built."""

from __future__ import annotations

from importlib.util import find_spec


def is_compiled() -> bool:
    """Say whether the forwarding path is compiled, as in the image, rather than interpreted."""
    spec = find_spec("sidecar.message")
    return spec is not None and not str(spec.origin).endswith(".py")
