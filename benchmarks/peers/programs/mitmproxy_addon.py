"""Puts the token on each request and lets bodies pass in a stream."""

import os
from typing import Any

AUTHORIZATION = f"Bearer {os.environ['PROXY_TOKEN']}"


def requestheaders(flow: Any) -> None:
    flow.request.headers["Authorization"] = AUTHORIZATION
    flow.request.stream = True


def responseheaders(flow: Any) -> None:
    flow.response.stream = True
