"""TorchServe's settings: names, types and environment variables.

From org.pytorch.serve.util.ConfigManager of TorchServe 0.12, which ignores unknown keys, treats
every flag except `true` as false, and ends with a Java exception if a number is invalid.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping

from vestal.configuration.properties import Properties
from vestal.errors import UsageError

_LARGEST_INT = 2**31 - 1
_LARGEST_LONG = 2**63 - 1
_AGES = (
    "grpc_inference_max_connection_age_ms",
    "grpc_inference_max_connection_age_grace_ms",
    "grpc_management_max_connection_age_ms",
    "grpc_management_max_connection_age_grace_ms",
)
INTEGERS: Mapping[str, tuple[int, int]] = {
    "default_response_timeout": (1, _LARGEST_INT),
    "default_startup_timeout": (1, _LARGEST_INT),
    "default_workers_per_model": (0, _LARGEST_INT),
    "grpc_inference_port": (1, 65535),
    "grpc_management_port": (1, 65535),
    "initial_distribution_port": (1, 65535),
    "initial_worker_port": (1, 65535),
    "io_ratio": (1, 100),
    "job_queue_size": (1, _LARGEST_INT),
    "max_request_size": (1, _LARGEST_INT),
    "max_response_size": (1, _LARGEST_INT),
    "metric_time_interval": (1, _LARGEST_INT),
    "netty_client_threads": (0, _LARGEST_INT),
    "number_of_gpu": (0, _LARGEST_INT),
    "number_of_netty_threads": (0, _LARGEST_INT),
    "unregister_model_timeout": (0, _LARGEST_INT),
    **dict.fromkeys(_AGES, (1, _LARGEST_LONG)),
}
"""The smallest and the largest value of each setting."""

FLAGS = (
    "async_logging",
    "cpu_launcher_enable",
    "debug",
    "decode_input_request",
    "disable_system_metrics",
    "disable_token_authorization",
    "enable_envvars_config",
    "enable_grpc_ssl",
    "enable_metrics_api",
    "enable_model_api",
    "install_py_dep_per_model",
    "ipex_enable",
    "ipex_gpu_enable",
    "limit_max_image_pixels",
    "model_metrics_auto_detect",
    "prefer_direct_buffer",
    "ts_open_inference_protocol",
    "use_env_allowed_urls",
    "use_native_io",
)
PATHS = (
    "certificate_file",
    "cpp_log_config",
    "keystore",
    "metrics_config",
    "model_store",
    "plugins_path",
    "private_key_file",
    "workflow_store",
)
TEXTS = (
    "allowed_urls",
    "blacklist_env_vars",
    "cors_allowed_headers",
    "cors_allowed_methods",
    "cors_allowed_origin",
    "cpu_launcher_args",
    "default_service_handler",
    "grpc_inference_address",
    "grpc_management_address",
    "inference_address",
    "keeper_address",
    "keystore_pass",
    "keystore_type",
    "load_models",
    "management_address",
    "metrics_address",
    "metrics_mode",
    "model_server_home",
    "model_snapshot",
    "models",
    "python",
    "service_envelope",
    "system_metrics_cmd",
    "token_expiration_min",
    "ts_header_key_sequence_end",
    "ts_header_key_sequence_id",
    "ts_header_key_sequence_start",
    "version",
    "vmargs",
)
KNOWN = (*INTEGERS, *FLAGS, *PATHS, *TEXTS)

METRICS_MODES = ("prometheus", "log", "legacy")
_NOT_FROM_ENVIRONMENT = {
    "enable_envvars_config",
    "io_ratio",
    "metric_time_interval",
    "model_snapshot",
    "models",
    "plugins_path",
    "python",
    "system_metrics_cmd",
    "use_env_allowed_urls",
    "use_native_io",
    "version",
    "vmargs",
}
_VARIABLE = re.compile(r"\$\$([^$]+[^$])\$\$")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")


def apply_environment(file: Properties, environment: Mapping[str, str]) -> Properties:
    """Return the settings with values from environment variables.

    As in TorchServe, `$$NAME$$` in a value is replaced, and with `enable_envvars_config=true`, a
    variable `TS_SETTING_NAME` replaces the file's value. Blanks at the end of a value, which Java
    keeps, are removed.

    Raises:
        UsageError: a value contains a variable that is not set.
    """
    values, places, warnings = dict(file.values), dict(file.places), list(file.warnings)

    for key, value in values.items():

        def replace(found: re.Match[str], key: str = key) -> str:
            if found[1] not in environment:
                raise UsageError(
                    f"{places[key]}: {key} uses the environment variable {found[1]}, "
                    "which is not set"
                )
            return environment[found[1]]

        values[key] = _VARIABLE.sub(replace, value)

    enabled = values.get("enable_envvars_config", "").lower() == "true"
    from_urls = values.get("use_env_allowed_urls", "").lower() == "true"
    ignored = [name for name in ("TS_CONFIG_FILE",) if name in environment]
    for name in sorted(environment.keys() & _variables().keys()):
        key = _variables()[name]
        if enabled and (key != "allowed_urls" or from_urls):
            values[key], places[key] = environment[name], f"environment variable {name}"
        else:
            ignored.append(name)
    if ignored:
        warnings.append(
            f"environment variables ignored: {', '.join(ignored)}. To use TS_ variables, set "
            "enable_envvars_config=true in config.properties"
        )
    for key, value in values.items():
        if key in KNOWN and key != "keystore_pass" and value != value.rstrip():
            values[key] = value.rstrip()
            warnings.append(
                f"{places[key]}: {key} ends in a blank; `vestal serve` ignores it, but for a plain "
                "`torchserve` it is part of the value"
            )
    return Properties(file.source, values, places, warnings)


def check_settings(file: Properties) -> None:
    """Check every value, and add a warning for every unknown key.

    Raises:
        UsageError: TorchServe would reject a value, or silently use another one.
    """
    for key, value in file.values.items():
        if key in INTEGERS:
            _check_integer(file, key, value)
        elif key in FLAGS:
            if value.lower() not in ("true", "false"):
                raise file.invalid(key, "true or false")
        elif key in PATHS:
            if "\0" in value:
                raise file.invalid(key, "a path")
        elif key == "metrics_mode":
            if re.sub(r"\s", "", value).lower() not in METRICS_MODES:
                raise file.invalid(key, ", ".join(METRICS_MODES[:-1]) + f" or {METRICS_MODES[-1]}")
        elif key == "token_expiration_min":
            if not _NUMBER.fullmatch(value) or not float(value):
                raise file.invalid(key, "a number of minutes above 0")
        elif key == "vmargs":
            try:
                shlex.split(value)
            except ValueError as error:
                raise file.invalid(key, f"Java options with balanced quotes ({error})") from None
        elif key not in KNOWN:
            near = difflib.get_close_matches(key, KNOWN, n=1)
            hint = f"did you mean {near[0]}?" if near else "TorchServe has no such setting"
            file.warnings.append(f"{file.places[key]}: {key} is unknown and has no effect; {hint}")


def _check_integer(file: Properties, key: str, value: str) -> None:
    """Check an integer; like Java's parseInt, without blanks and underscores."""
    smallest, largest = INTEGERS[key]
    if _INTEGER.fullmatch(value) and smallest <= int(value) <= largest:
        return
    if key.endswith("_port"):
        raise file.invalid(key, f"a port number from {smallest} to {largest}")
    kind = "a number of bytes" if key in ("max_request_size", "max_response_size") else "a number"
    raise file.invalid(key, f"{kind} from {smallest} to {largest}")


def _variables() -> dict[str, str]:
    """Return the settings by environment variable, as with enable_envvars_config."""
    settings = {
        f"TS_{key.removeprefix('ts_').upper()}": key
        for key in KNOWN
        if key not in _NOT_FROM_ENVIRONMENT
    }
    settings["TS_TOKEN_EXPIRATION_TIME_MIN"] = settings.pop("TS_TOKEN_EXPIRATION_MIN")
    return settings
