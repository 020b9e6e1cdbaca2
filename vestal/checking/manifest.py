"""MAR-INF/MANIFEST.json, as TorchServe's frontend and its workers read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vestal.mar.findings import Findings
from vestal.mar.layout import CONFIG, MANIFEST
from vestal.mar.manifest import read_manifest as parsed
from vestal.mar.names import safe_name
from vestal.mar.opening import Contents

RUNTIMES = ("python", "python3", "LSP")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")  # torch-model-archiver's own rule
_FILES = ("serializedFile", "modelFile", "configFile", "requirementsFile")
_TEXTS = ("modelName", "modelVersion", "handler", *_FILES)
_REPACK = "make it with vestal pack or torch-model-archiver"


@dataclass(frozen=True)
class Manifest:
    """`handler` as it stands there; files are names of members that are there, or None."""

    name: str
    handler: str
    serialized: str | None
    model_file: str | None
    config: str | None
    requirements: str | None

    @property
    def handler_module(self) -> str:
        """What a worker imports; of `folder/my_handler.py:entry` that is my_handler."""
        return self.handler.split(":", 1)[0].removesuffix(".py").split("/")[-1]

    @property
    def handler_file(self) -> str:
        """The member that is imported, of one with a function also in its own folder."""
        place, colon, _ = self.handler.partition(":")
        folder = f"{place.rpartition('/')[0]}/" if colon and "/" in place else ""
        return f"{folder}{self.handler_module}.py"

    @property
    def handler_function(self) -> str:
        """The function that a worker looks for before it looks for a class."""
        return self.handler.partition(":")[2] or "handle"


def read_manifest(contents: Contents, found: Findings) -> Manifest | None:
    """The manifest; None where there is none to go on with."""
    model = _model(contents, found)
    if model is None:
        return None
    before = len(found.items)
    for key in _TEXTS:
        if model.get(key) is not None and type(model[key]) is not str:
            _bad(f"model.{key} is {model[key]!r:.80}, not a text", found)
    if len(found.items) > before:
        return None
    if not _NAME.fullmatch(model.get("modelName") or ""):
        _bad(
            f"model.modelName is {model.get('modelName')!r:.80}: a name has letters, digits, dots, "
            "dashes and underscores",
            found,
        )
    if not model.get("modelVersion"):
        found.warning(
            "bad-manifest",
            MANIFEST,
            "model.modelVersion is missing: TorchServe serves it as 1.0, whatever it is",
            f"{_REPACK}, with a version",
        )
    handler = model.get("handler") or ""
    if not handler:
        _bad("model.handler is missing: the worker has nothing to load", found)
        return None
    files = {key: _named_file(contents, key, model.get(key), found) for key in _FILES}
    if files["configFile"] is None and CONFIG in contents and not model.get("configFile"):
        found.error(
            "config-unused",
            CONFIG,
            "the manifest names no configFile: TorchServe does not read this file",
            "give torch-model-archiver --config-file, or take the file out",
        )
    return Manifest(
        name=model.get("modelName") or "",
        handler=handler,
        serialized=files["serializedFile"],
        model_file=files["modelFile"],
        config=files["configFile"],
        requirements=files["requirementsFile"],
    )


def _model(contents: Contents, found: Findings) -> Mapping[str, Any] | None:
    if MANIFEST not in contents:
        near = next((name for name in contents.names if name.endswith("MANIFEST.json")), None)
        found.error(
            "no-manifest",
            near or "",
            "TorchServe finds no MAR-INF/MANIFEST.json, so it knows neither handler nor weights"
            + (" (of a .tar.gz it drops the first folder of every name)" if near else ""),
            _REPACK,
        )
        return None
    try:
        given = parsed(contents.text(MANIFEST))
    except (ValueError, RecursionError) as error:
        _bad(f"it is not JSON ({error})", found)
        return None
    model = given.get("model") if isinstance(given, dict) else None
    if not isinstance(model, dict):
        _bad("it has no object named model", found)
        return None
    if given.get("runtime", "python") not in RUNTIMES:
        _bad(f"runtime is {given['runtime']!r:.80}: TorchServe knows python and python3", found)
    elif given.get("runtime") == "LSP":
        found.warning(
            "bad-manifest",
            MANIFEST,
            "runtime is LSP, TorchServe's C++ worker, which its PyPI package does not have",
            "pack it with runtime python",
        )
    return model


def _named_file(contents: Contents, key: str, name: str | None, found: Findings) -> str | None:
    if not name:
        return None
    plain = safe_name(name)  # "./net.pth" is net.pth
    if plain is None or plain not in contents:
        found.error(
            "manifest-file",
            MANIFEST,
            f"model.{key} is {name}, and there is no such file in the archive",
            f"{_REPACK}, with that file",
        )
        return None
    return plain


def _bad(what: str, found: Findings) -> None:
    found.error("bad-manifest", MANIFEST, what, _REPACK)
