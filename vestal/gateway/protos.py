"""Pieces of Envoy's configuration. Its reference: https://www.envoyproxy.io/docs/envoy/latest/api."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Config = dict[str, Any]
"""A message of Envoy's API, as JSON."""


def typed(name: str, kind: str, **fields: Any) -> Config:
    """Return an extension, such as a filter.

    Args:
        kind: type of its configuration, without `envoy.`.
    """
    return {"name": name, "typed_config": typed_config(kind, **fields)}


def typed_config(kind: str, **fields: Any) -> Config:
    return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}


def file_source(file: Path) -> Config:
    """Return the source of resources that Envoy reads again when the file is replaced."""
    return {"resource_api_version": "V3", "path_config_source": {"path": str(file)}}
