"""The sidecar's own sign-in: an aiohttp application on a listener of its own. See `application`."""
