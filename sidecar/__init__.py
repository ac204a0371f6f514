"""A sidecar HTTP proxy that puts the right bearer token on a legacy application's requests."""

__version__ = "0.1.0"
