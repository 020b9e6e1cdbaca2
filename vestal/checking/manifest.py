"""Check MAR-INF/MANIFEST.json as TorchServe's frontend and its workers read it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vestal.mar.findings import Check, Finding
from vestal.mar.layout import CONFIG, MANIFEST
from vestal.mar.manifest import FILES, KEYS, Manifest, parse_manifest
from vestal.mar.names import safe_name
from vestal.mar.opening import Contents

_RUNTIMES = ("python", "python3", "LSP")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")  # torch-model-archiver's own rule
_REPACK = "create the archive with vestal pack or torch-model-archiver"


def check_manifest(contents: Contents) -> Check[Manifest | None]:
    """Read the manifest; None if the other checks cannot use it.

    Its files are names of members, but the archive may not contain them.
    """
    if MANIFEST not in contents:
        yield _missing(contents)
        return None
    try:
        manifest = parse_manifest(contents.text(MANIFEST))
    except ValueError as error:
        yield _invalid(str(error))
        return None
    yield from _check_values(manifest)
    if not manifest.handler:
        return None
    members: dict[str, Any] = {}
    for name in FILES:
        file = getattr(manifest, name)
        members[name] = (safe_name(file) or file) if file else None  # "./net.pth" is net.pth
        if file and members[name] not in contents:
            yield Finding.error(
                "manifest-file",
                MANIFEST,
                f"model.{KEYS[name]} is {file}, and there is no such file in the archive",
                f"{_REPACK}, with that file",
            )
    if CONFIG in contents and not manifest.config_file:
        yield Finding.error(
            "config-unused",
            CONFIG,
            "the manifest names no configFile, so TorchServe does not read this file",
            "pass it to torch-model-archiver as --config-file, or remove it",
        )
    manifest = replace(manifest, **members)
    if manifest.requirements_file is not None and manifest.requirements_file in contents:
        yield Finding.note(
            "requirements-ignored",
            manifest.requirements_file,
            "TorchServe installs these packages only with install_py_dep_per_model=true",
            "install them on the server, or set that in config.properties",
        )
    return manifest


def _check_values(manifest: Manifest) -> Iterator[Finding]:
    if manifest.runtime not in _RUNTIMES:
        runtime = f"runtime is {manifest.runtime!r:.80}"
        yield _invalid(f"{runtime}: TorchServe supports python and python3")
    elif manifest.runtime == "LSP":
        yield Finding.warning(
            "bad-manifest",
            MANIFEST,
            "runtime is LSP, TorchServe's C++ worker, which is not in its PyPI package",
            "pack it with runtime python",
        )
    if not _NAME.fullmatch(manifest.name):
        yield _invalid(
            f"model.modelName is {manifest.name!r:.80}, expected letters, digits, dots, dashes and "
            "underscores"
        )
    if not manifest.version:
        yield Finding.warning(
            "bad-manifest",
            MANIFEST,
            "model.modelVersion is missing: TorchServe serves the model as version 1.0",
            f"{_REPACK}, with a version",
        )
    if not manifest.handler:
        yield _invalid("model.handler is missing: the worker has nothing to load")


def _missing(contents: Contents) -> Finding:
    near = next((name for name in contents.names if name.endswith("MANIFEST.json")), None)
    return Finding.error(
        "no-manifest",
        near or "",
        "TorchServe finds no MAR-INF/MANIFEST.json, so it knows neither handler nor weights"
        + (" (in a .tar.gz, it drops the first folder of every name)" if near else ""),
        _REPACK,
    )


def _invalid(meaning: str) -> Finding:
    return Finding.error("bad-manifest", MANIFEST, meaning, _REPACK)
