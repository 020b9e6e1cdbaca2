"""Find the served model that a command names."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import NamedTuple

from vestal.client import Client, ClientError, NotFound
from vestal.errors import UsageError, VestalError

_LIST_SECONDS = 5.0


class ServedName(NamedTuple):
    """Name and version of a served model; `version` None is the default version."""

    name: str
    version: str | None

    def __str__(self) -> str:
        return f"{self.name}/{self.version}" if self.version else self.name


def served_model(client: Client, given: str, version: str | None) -> ServedName:
    """The served model that is named `mnist`, `mnist-1.0`, or by the path of its archive.

    A server whose management API cannot be reached knows `mnist-1.0` only as a model's name.

    Raises:
        UsageError: `version` is another one than the name or the archive has.
    """
    if given.endswith(".mar") or "/" in given:
        from vestal.mar.manifest import read_manifest

        manifest = read_manifest(Path(given))
        return _of_version(given, manifest.name, manifest.version, version)
    if "-" in given:
        try:
            models = client.models(timeout=_LIST_SECONDS)
        except ClientError:
            return ServedName(given, version)
        for info in models:
            if given == f"{info.name}-{info.version}" and given not in {m.name for m in models}:
                return _of_version(given, info.name, info.version, version)
    return ServedName(given, version)


def not_served(client: Client, served: ServedName, error: NotFound) -> VestalError:
    """The error for a model that is not served, with the names of those that are.

    The error of the server itself, if its management API cannot be reached.
    """
    try:
        names = {info.name for info in client.models(timeout=_LIST_SECONDS)}
    except ClientError:
        return error
    near = difflib.get_close_matches(served.name, names - {served.name}, n=1)
    hint = f"did you mean {near[0]}?" if near else f"served: {', '.join(sorted(names)) or 'none'}"
    version = f" {served.version}" if served.version else ""
    return VestalError(f"model {served.name}{version} is not served; {hint}")


def _of_version(given: str, name: str, own: str, version: str | None) -> ServedName:
    if version not in (None, own):
        raise UsageError(f"{given} has version {own}, but --version is {version}; omit one of them")
    return ServedName(name, own)
