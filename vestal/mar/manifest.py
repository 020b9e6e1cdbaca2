"""MAR-INF/MANIFEST.json: what it states about the model, and the settings that it names."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from vestal.errors import UsageError, VestalError
from vestal.mar.layout import MANIFEST, read_member
from vestal.mar.names import safe_name
from vestal.mar.zips import BROKEN

KEYS = {
    "name": "modelName",
    "version": "modelVersion",
    "handler": "handler",
    "serialized_file": "serializedFile",
    "model_file": "modelFile",
    "config_file": "configFile",
    "requirements_file": "requirementsFile",
}
FILES = ("serialized_file", "model_file", "config_file", "requirements_file")


@dataclass(frozen=True)
class Manifest:
    """The model of an archive; "" and None stand for keys that are missing or empty.

    Attributes:
        handler: a file, `folder/my_handler.py:function`, or a handler of TorchServe.
        runtime: runtime of the worker; a key of the JSON next to `model`.
    """

    name: str = ""
    version: str = ""
    handler: str = ""
    serialized_file: str | None = None
    model_file: str | None = None
    config_file: str | None = None
    requirements_file: str | None = None
    runtime: str = "python"

    @property
    def handler_module(self) -> str:
        """The module that a worker imports: my_handler for `folder/my_handler.py:function`."""
        return self.handler.split(":", 1)[0].removesuffix(".py").split("/")[-1]

    @property
    def handler_file(self) -> str:
        """The member that is imported; a worker searches a folder only if a function is named."""
        place, colon, _ = self.handler.partition(":")
        folder = f"{place.rpartition('/')[0]}/" if colon and "/" in place else ""
        return f"{folder}{self.handler_module}.py"

    @property
    def handler_function(self) -> str:
        """The function that a worker searches for before it searches for a class."""
        return self.handler.partition(":")[2] or "handle"

    def model(self) -> dict[str, str]:
        """The object `model` of the JSON."""
        return {KEYS[name]: value for name, value in asdict(self).items() if name in KEYS and value}

    def write(self, folder: Path) -> None:
        """Write the manifest into the folder of an archive."""
        file = folder / MANIFEST
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"model": self.model()}), "utf-8")


def parse_manifest(text: str | bytes) -> Manifest:
    """The manifest as TorchServe's frontend reads it.

    Gson accepts a number or a boolean as name and version, and keeps the literal: `1.10` stays
    "1.10". All other values are read by the worker too, so they must be strings.

    Raises:
        ValueError: it is not JSON, has no object `model`, or a value is not a string.
    """
    try:
        content = json.loads(text, parse_int=_Literal, parse_float=_Literal)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise ValueError("it has no object named model")
    values = {}
    for name, key in KEYS.items():
        value = model.get(key)
        if name in ("name", "version") and isinstance(value, bool | _Literal):
            value = str(value).lower() if isinstance(value, bool) else str(value)
        if value is not None and type(value) is not str:
            raise ValueError(f"model.{key} is {value!r:.80}, expected a string")
        if value:
            values[name] = value
    return Manifest(**values, runtime=str(content.get("runtime", "python")))


def read_manifest(
    archive: Path, *, source: Path | None = None, handler_required: bool = False
) -> Manifest:
    """The manifest of a .mar or of its unpacked folder.

    Args:
        source: the archive's name in errors, if `archive` is where it was unpacked.
        handler_required: whether a manifest without a handler is an error.

    Raises:
        UsageError: it is not an archive, names no model, or a file outside the archive.
    """
    source = source or archive
    try:
        text = read_member(archive, MANIFEST)
        if text is None:
            raise ValueError(f"it has no {MANIFEST}")
        manifest = parse_manifest(text)
        for name in ("name", "handler") if handler_required else ("name",):
            if not getattr(manifest, name):
                raise ValueError(f"model.{KEYS[name]} is missing in {MANIFEST}")
        for name in FILES:
            file = getattr(manifest, name)
            if file and safe_name(file) is None:
                raise ValueError(f"model.{KEYS[name]} is {file!r:.80}, outside of the archive")
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror or error}") from None
    except BROKEN as error:
        raise UsageError(
            f"{source} is not a model archive ({error}). Pack it again, or pass a .mar or its "
            "unpacked folder"
        ) from None
    return manifest


def read_settings(archive: Path, manifest: Manifest) -> dict[str, Any]:
    """The settings of model-config.yaml; empty if the archive has none.

    Raises:
        VestalError: the file cannot be read.
    """
    if manifest.config_file is None:
        return {}
    try:
        settings = yaml.safe_load(read_member(archive, manifest.config_file) or b"")
        if not isinstance(settings, dict | None):
            raise ValueError(f"expected keys with values, got {type(settings).__name__}")
    except (OSError, yaml.YAMLError, RecursionError, *BROKEN) as error:
        raise VestalError(f"{manifest.config_file} of {archive} cannot be read: {error}") from None
    return settings or {}


def batch_size_of(settings: dict[str, Any]) -> int:
    """The batch size in the settings of an archive; 1 if they have none.

    Raises:
        VestalError: it is not a number.
    """
    value = settings.get("batchSize") or 1
    try:
        return int(value)
    except (TypeError, ValueError):
        raise VestalError(
            f"batchSize is {value!r:.80} in model-config.yaml, expected an integer"
        ) from None


class _Literal(str):
    """The literal of a JSON number; its type differs from that of a JSON string."""
