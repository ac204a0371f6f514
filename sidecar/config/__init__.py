"""The configuration file: read with positions, checked as a whole, compiled to `sidecar.settings`.

YAML and pydantic live only in this package. `watch` is imported by its user, since it needs an event loop.
"""

from sidecar.config.changing import changed_routes
from sidecar.config.json_schema import json_schema
from sidecar.config.loading import load
from sidecar.config.problems import ConfigError, Problem, render

__all__ = ["ConfigError", "Problem", "changed_routes", "json_schema", "load", "render"]
