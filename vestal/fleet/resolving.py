"""Turn names and versions of models into archives of the model store and their digests."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vestal.client.encoding import BYTES, CONTENT_TYPES
from vestal.errors import UsageError, VestalError
from vestal.fleet.desired import Desired, ModelTarget, Probe, SwapPolicy, VersionTarget, Workers
from vestal.fleet.serving_file import ServingFile
from vestal.fleet.serving_schema import ModelSection, ProbeSection, VersionSection
from vestal.fleet.serving_tree import Keys
from vestal.mar.index import sha256_of
from vestal.mar.manifest import read_manifest, read_settings
from vestal.server.spec import ModelSpec, read_spec

MOST_PROBE_BYTES = 10_000_000


def default_desired(specs: Sequence[ModelSpec]) -> Desired:
    """Desire archives without a serving.yaml; the first version of a model is its default.

    Raises:
        VestalError: an archive cannot be read.
    """
    models: dict[str, ModelTarget] = {}
    for spec in specs:
        versions = models[spec.name].versions if spec.name in models else {}
        models[spec.name] = ModelTarget(
            default=next(iter(versions), spec.version),
            versions={**versions, spec.version: version_target(spec.archive)},
        )
    return Desired(models=models)


def version_target(
    archive: Path, workers: Workers | None = None, memory_limit: int | None = None
) -> VersionTarget:
    """Return the target for an archive of the model store.

    Args:
        workers: None for the numbers in the archive's model-config.yaml, or one worker.

    Raises:
        VestalError: the archive cannot be read.
    """
    try:
        sha256 = sha256_of(archive)
    except OSError as error:
        raise VestalError(f"{archive} cannot be read: {error.strerror or error}") from None
    return VersionTarget(
        archive=archive.name,
        sha256=sha256,
        workers=workers or _own_workers(archive),
        memory_limit=memory_limit,
    )


def resolve(file: ServingFile, store: Path, root: Path) -> Desired:
    """Find the archives and read the inputs of the probes.

    Args:
        store: the model store.
        root: folder of the inputs with relative paths.

    Raises:
        UsageError: archives, versions or inputs are missing or unreadable; one line for each.
    """
    resolver = _Resolver(file, _Store(store), root)
    models = {name: resolver.model(name, each) for name, each in file.models.items()}
    file.tree.raise_problems()
    return Desired(models={name: each for name, each in models.items() if each is not None})


def _own_workers(archive: Path) -> Workers:
    settings = read_settings(archive, read_manifest(archive))
    low, high = settings.get("minWorkers"), settings.get("maxWorkers")
    # TorchServe ignores one without the other.
    if type(low) is int and type(high) is int and 1 <= low <= high:
        return Workers(min=low, max=high)
    return Workers()


class _Store:
    """The archives of a model store by name and version; each is opened once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.specs: list[ModelSpec] = []
        self.unreadable: dict[str, str] = {}
        for archive in sorted(folder.glob("*.mar")):
            try:
                self.specs.append(read_spec(archive))
            except VestalError as error:
                self.unreadable[archive.name] = str(error)

    def by_file(self, name: str) -> ModelSpec:
        """Return the archive with a file name, with or without .mar.

        Raises:
            UsageError: there is none, or it cannot be read.
        """
        for file in (name, f"{name}.mar"):
            if file in self.unreadable:
                raise UsageError(self.unreadable[file])
            for spec in self.specs:
                if spec.archive.name == file:
                    return spec
        files = [spec.archive.name for spec in self.specs]
        raise UsageError(f"{self.folder} has no archive {name}; {_it_has(files, name)}")

    def by_version(self, model: str, version: str) -> ModelSpec:
        """Return the archive of a version.

        Raises:
            UsageError: there is none, or several.
        """
        versions = [spec for spec in self.specs if spec.name == model]
        found = [spec for spec in versions if spec.version == version]
        if len(found) > 1:
            names = " and ".join(spec.archive.name for spec in found)
            raise UsageError(f"{names} are both {model} {version}; name one with `archive:`")
        if found:
            return found[0]
        if versions:
            known = ", ".join(spec.version for spec in versions)
            near = difflib.get_close_matches(version, [s.version for s in versions], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"{self.folder} has no {model} {version}; it has version {known}{hint}"
            )
        models = sorted({spec.name for spec in self.specs})
        raise UsageError(f"{self.folder} has no archive of {model}; {_it_has(models, model)}")


@dataclass
class _Resolver:
    """Resolves the models of a file; problems go to the file's tree."""

    file: ServingFile
    store: _Store
    root: Path
    probe_bytes: int = field(default=0, init=False)

    def model(self, name: str, section: ModelSection) -> ModelTarget | None:
        keys: Keys = ("models", name)
        versions: dict[str, VersionTarget] = {}
        parts: list[tuple[Keys, VersionSection]] = [(keys, section)]
        parts += [((*keys, "also", i), each) for i, each in enumerate(section.also)]
        for place, part in parts:
            if part.version in versions:
                self.file.tree.report(place, f"version {part.version} is named twice")
            target = self._version(place, name, part)
            if target is not None:
                versions.setdefault(part.version, target)
        probes = [self._probe((*keys, "probe"), i, each) for i, each in enumerate(section.probe)]
        if section.version not in versions:
            return None
        return ModelTarget(
            default=section.version,
            versions=versions,
            probes=tuple(each for each in probes if each is not None),
            swap=SwapPolicy(
                ready_seconds=section.ready_timeout,
                settle_seconds=section.settle_time,
                max_error_rate=section.max_error_rate,
                max_latency_ratio=section.max_latency_ratio,
                keep_previous_seconds=section.keep_previous,
            ),
            required=section.required,
        )

    def _version(self, keys: Keys, model: str, part: VersionSection) -> VersionTarget | None:
        try:
            if part.archive is None:
                spec = self.store.by_version(model, part.version)
            else:
                spec = self.store.by_file(part.archive)
                if spec.version != part.version:
                    raise UsageError(
                        f"{spec.archive.name} is version {spec.version}, expected {part.version}"
                    )
            bounds = part.workers
            workers = Workers(min=bounds.min, max=bounds.max or bounds.min) if bounds else None
            return version_target(spec.archive, workers, part.memory_limit)
        except VestalError as error:
            key = "version" if part.archive is None else "archive"
            self.file.tree.report(
                (*keys, key) if (*keys, key) in self.file.tree.lines else keys, str(error)
            )
            return None

    def _probe(self, keys: Keys, index: int, section: ProbeSection) -> Probe | None:
        # A single probe is not a list in the file.
        place = (*keys, index) if (*keys, index) in self.file.tree.lines else keys
        path = self.root / section.input
        try:
            body = self._read(path)
        except (UsageError, OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            self.file.tree.report((*place, "input"), f"{path}: {reason}")
            return None
        kind = section.content_type or CONTENT_TYPES.get(path.suffix.lower(), BYTES)
        return Probe.of(section.input, body, kind, section.expect)

    def _read(self, path: Path) -> bytes:
        if path.exists() and not path.is_file():
            raise UsageError("expected a file")
        left = MOST_PROBE_BYTES - self.probe_bytes
        with path.open("rb") as stream:
            body = stream.read(left + 1)
        if len(body) > left:
            raise UsageError("the inputs of all probes together have more than 10 MB")
        self.probe_bytes += len(body)
        return body


def _it_has(names: Sequence[str], name: str) -> str:
    if not names:
        return "it is empty; `vestal pack` adds an archive"
    near = difflib.get_close_matches(name, names, n=1)
    return f"it has {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else "")
