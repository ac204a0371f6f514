"""Two sidecars, npm's oidc-provider and Debian's Redis with Sentinel: see docs/soak.md."""
