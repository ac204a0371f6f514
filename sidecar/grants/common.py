"""The parameters that every grant shares: scope, audience, resource and the file's own."""

from __future__ import annotations

from sidecar.model import Form, TokenSpec


def wanted(spec: TokenSpec) -> Form:
    """Return scope (RFC 6749 section 3.3), audience, each resource (RFC 8707 section 2) and the extra parameters."""
    form: Form = []
    if spec.scopes:
        form.append(("scope", " ".join(sorted(spec.scopes))))
    if spec.audience:
        form.append(("audience", spec.audience))
    form += [("resource", resource) for resource in spec.resources]
    return form + list(spec.params)
