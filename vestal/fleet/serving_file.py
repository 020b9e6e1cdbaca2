"""serving.yaml: what should run, as a user writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vestal.fleet.desired import Desired, ModelTarget, VersionTarget, Workers
from vestal.mar.index import sha256_of
from vestal.mar.manifest import read_manifest, read_settings
from vestal.server.spec import ModelSpec


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
    return VersionTarget(
        archive=archive.name,
        sha256=sha256_of(archive),
        workers=workers or _own_workers(archive),
        memory_limit=memory_limit,
    )


def _own_workers(archive: Path) -> Workers:
    settings = read_settings(archive, read_manifest(archive))
    low, high = settings.get("minWorkers"), settings.get("maxWorkers")
    # TorchServe ignores one without the other.
    if type(low) is int and type(high) is int and 1 <= low <= high:
        return Workers(min=low, max=high)
    return Workers()
