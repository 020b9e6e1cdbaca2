"""Turn names and versions of models into archives of the model store and their digests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vestal.client.encoding import BYTES, CONTENT_TYPES
from vestal.errors import UsageError, VestalError
from vestal.fleet.api_keys import read_clients
from vestal.fleet.archive_store import ArchiveStore
from vestal.fleet.desired import (
    Canary,
    Desired,
    ModelTarget,
    Probe,
    Shadow,
    SwapPolicy,
    VersionTarget,
    Workers,
)
from vestal.fleet.serving_file import ServingFile
from vestal.fleet.serving_schema import (
    CanarySection,
    GatewaySection,
    ModelSection,
    ProbeSection,
    ShadowSection,
    VersionSection,
)
from vestal.fleet.serving_tree import Keys
from vestal.gateway import envoy
from vestal.gateway.settings import Gateway, Sticky, Tls
from vestal.mar.index import sha256_of
from vestal.mar.manifest import read_manifest, read_settings
from vestal.server.spec import ModelSpec

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
    """Find the archives and the files of the gateway, and read the inputs of the probes.

    Args:
        store: the model store.
        root: folder of the inputs with relative paths.

    Raises:
        UsageError: archives, versions or inputs are missing or unreadable; one line for each.
    """
    resolver = _Resolver(file, ArchiveStore(store), root)
    models = {name: resolver.model(name, each) for name, each in file.models.items()}
    gateway = resolver.gateway(file.gateway) if file.gateway else None
    file.tree.raise_problems()
    found = {name: each for name, each in models.items() if each is not None}
    return Desired(models=found, gateway=gateway)


def _own_workers(archive: Path) -> Workers:
    settings = read_settings(archive, read_manifest(archive))
    low, high = settings.get("minWorkers"), settings.get("maxWorkers")
    # TorchServe ignores one without the other.
    if type(low) is int and type(high) is int and 1 <= low <= high:
        return Workers(min=low, max=high)
    return Workers()


@dataclass
class _Resolver:
    """Resolves the models of a file; problems go to the file's tree."""

    file: ServingFile
    store: ArchiveStore
    root: Path
    probe_bytes: int = field(default=0, init=False)

    def model(self, name: str, section: ModelSection) -> ModelTarget | None:
        keys: Keys = ("models", name)
        versions: dict[str, VersionTarget] = {}
        parts: list[tuple[Keys, VersionSection]] = [(keys, section)]
        parts += [((*keys, "also", i), each) for i, each in enumerate(section.also)]
        parts += [((*keys, role), each) for role, each in _candidates(section).items()]
        for place, part in parts:
            if part.version in versions:
                self.file.tree.report(place, f"version {part.version} is named twice")
            target = self._version(place, name, part)
            if target is not None:
                versions.setdefault(part.version, target)
        for role in _candidates(section) if self.file.gateway is None else ():
            problem = f"a {role} needs the gateway: add `gateway: {{port: 8000}}` to the file"
            self.file.tree.report((*keys, role), problem)
        probes = [self._probe((*keys, "probe"), i, each) for i, each in enumerate(section.probe)]
        # A version that is missing or named twice has been reported.
        candidates = {each.version for each in _candidates(section).values()}
        if section.version not in versions or not candidates <= versions.keys() - {section.version}:
            return None
        return ModelTarget(
            default=section.version,
            versions=versions,
            canary=_canary(section.canary) if section.canary else None,
            shadow=_shadow(section.shadow) if section.shadow else None,
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

    def gateway(self, section: GatewaySection) -> Gateway | None:
        keys: Keys = ("gateway",)
        if envoy.find_envoy() is None:
            self.file.tree.report(keys, envoy.MISSING)
            return None
        tls = None
        if section.tls is not None:
            certificate = self._path((*keys, "tls", "certificate"), section.tls.certificate)
            tls = Tls(
                certificate=certificate, key=self._path((*keys, "tls", "key"), section.tls.key)
            )
        api_keys = None
        if section.api_keys is not None:
            api_keys = self._path((*keys, "api_keys"), section.api_keys)
            try:
                read_clients(Path(api_keys))
            except UsageError as error:
                problem = "; ".join(str(error).splitlines())
                self.file.tree.report((*keys, "api_keys"), problem)
        limits = section.model_dump(exclude={"tls", "api_keys", "anonymous"})
        return Gateway(tls=tls, api_keys=api_keys, **limits)

    def _path(self, keys: Keys, name: str) -> str:
        """Return the absolute path of a file that can be read."""
        path = (self.root / name).absolute()
        try:
            with path.open("rb") as stream:
                stream.read(1)
        except OSError as error:
            self.file.tree.report(keys, f"{path}: {error.strerror or error}")
        return str(path)

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


def _candidates(section: ModelSection) -> dict[str, VersionSection]:
    candidates = {"canary": section.canary, "shadow": section.shadow}
    return {role: each for role, each in candidates.items() if each is not None}


def _canary(section: CanarySection) -> Canary:
    sticky = Sticky(**section.sticky.model_dump()) if section.sticky else None
    return Canary(version=section.version, weight=section.weight, sticky=sticky)


def _shadow(section: ShadowSection) -> Shadow:
    return Shadow(version=section.version, sample=section.sample)
