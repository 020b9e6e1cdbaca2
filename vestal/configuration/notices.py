"""Messages about the settings at a start: ignored, overridden, added, features turned off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from vestal.configuration.config import METRICS, Configuration, default_file
from vestal.configuration.ports import GRPC_SETTINGS, HTTP_SETTINGS
from vestal.configuration.properties import read_properties

# Settings of Vestal's file that are TorchServe's defaults, or that every start sets.
_NOT_ADDED = {
    *HTTP_SETTINGS,
    *GRPC_SETTINGS,
    "default_workers_per_model",
    "enable_model_api",
    "grpc_inference_address",
    "grpc_management_address",
    "load_models",
    "model_store",
    "vmargs",
}


def notices(configuration: Configuration) -> list[str]:
    """Return the messages, one sentence each.

    Raises:
        UsageError: the file of metrics_config does not exist or is not YAML.
    """
    return [
        *configuration.file.warnings,
        *_disabled_features(configuration),
        *_replaced_settings(configuration),
    ]


def _disabled_features(configuration: Configuration) -> Iterator[str]:
    """Features of Vestal that settings of the user turn off."""
    mode = "".join(configuration.values["metrics_mode"].split()).lower()
    if mode != "prometheus":
        yield f"metrics_mode is {mode}: /metrics and client.metrics() stay empty"
    if configuration.values.get("enable_metrics_api") == "false":
        yield "enable_metrics_api is false: /metrics is not available"
    if configuration.flag("decode_input_request"):
        yield (
            "decode_input_request is true: TorchServe decodes JSON before the handler, which gets "
            "malformed JSON as raw bytes and cannot refuse it with 400"
        )
    path = configuration.metrics_config
    if missing := _names(METRICS) - _declared(configuration, path):
        yield (
            f"{path} does not declare {', '.join(sorted(missing))}: they are not recorded "
            f"({METRICS} declares them)"
        )


def _replaced_settings(configuration: Configuration) -> Iterator[str]:
    own = configuration.file.values
    if own.get("enable_model_api", "true").lower() == "false":
        yield "enable_model_api=false is overridden: vestal serve needs it to register the models"
    if own.get("load_models", "all").strip().lower() not in ("", "all"):
        yield "load_models is ignored: pass the archives to vestal serve"
    defaults = read_properties(default_file()).values
    added = [
        f"{key}={configuration.values[key]}"
        for key in defaults
        if key not in own and key not in _NOT_ADDED
    ]
    if added:
        yield f"added to {configuration.source}: {', '.join(added)}"


def _declared(configuration: Configuration, path: Path) -> set[str]:
    try:
        return _names(path)
    except (OSError, UnicodeError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise configuration.file.invalid(
            "metrics_config", f"a file like {METRICS}; {path} cannot be read ({reason})"
        ) from None


def _names(path: Path) -> set[str]:
    content: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    groups = [content.get(part) or {} for part in ("ts_metrics", "model_metrics")]
    return {metric["name"] for group in groups for metrics in group.values() for metric in metrics}
