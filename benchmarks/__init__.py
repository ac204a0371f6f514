"""What a proxied request costs: the sidecar beside the proxies that a team would use otherwise. See `README.md`."""
