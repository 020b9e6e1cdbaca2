"""Find what `vestal evaluate` measures: weights, an archive, or a served model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vestal.archive.runnable import find_runnable
from vestal.archive.weights import find_weights
from vestal.cli.served import served_model
from vestal.cli.waiting import wait_for_server
from vestal.client import Client
from vestal.client.settings import read_ready_file
from vestal.errors import UsageError, VestalError
from vestal.evaluation.sources import (
    ArchiveSource,
    ServedSource,
    Source,
    WeightsSource,
)
from vestal.mar.manifest import read_manifest
from vestal.mar.store import training_dataset_of
from vestal.model_folders import find_model, handler_options
from vestal.project import Project
from vestal.recipes.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class EvaluationOptions:
    """The arguments of `vestal evaluate`; `name` is a model or an archive."""

    name: str
    weights: str | None = None
    version: str | None = None
    served: bool = False
    url: str | None = None
    recipe: str | None = None
    timeout: float = 60.0


@dataclass(frozen=True)
class EvaluationTarget:
    """`trained_on`: the data set that the weights were trained on, if it is recorded."""

    name: str
    source: Source
    recipe: Recipe
    trained_on: str | None = None


@contextmanager
def open_target(project: Project, options: EvaluationOptions) -> Iterator[EvaluationTarget]:
    """Find the model, and the recipe that has its test data.

    Raises:
        UsageError: an unknown name, or options that exclude each other.
        VestalError: unreadable weights or archive, or no server.
    """
    if "://" in options.name:
        raise UsageError(
            f"expected a model or an archive, got {options.name}: pass the name of the model, and "
            "the base URL of its server with --url"
        )
    if options.served or options.url:
        if options.weights:
            raise UsageError("--weights cannot be combined with --served or --url")
        with _served(project, options) as target:
            yield target
        return
    found = find_runnable(project, options.name, version=options.version, weights=options.weights)
    if found.archive is not None:
        name, trained_on = read_manifest(found.archive).name, training_dataset_of(found.archive)
        recipe = _recipe(project, name, options)
        yield EvaluationTarget(name, ArchiveSource(found.archive), recipe, trained_on)
        return
    recipe = _recipe(project, found.name, options)
    with tempfile.TemporaryDirectory(prefix="vestal-weights-") as scratch:
        run = find_weights(project, found.name, found.weights, Path(scratch) / "imported")
        output = handler_options(find_model(project, run.model)).get("output")
        source = WeightsSource(run, options.weights, output)
        yield EvaluationTarget(found.name, source, recipe, run.dataset)


def _recipe(project: Project, name: str, options: EvaluationOptions) -> Recipe:
    try:
        return load_recipe(project, options.recipe or name)
    except UsageError as error:
        hint = "" if options.recipe else "; pass the model whose test data to use with --recipe"
        raise UsageError(f"{error}{hint}") from None


@contextmanager
def _served(project: Project, options: EvaluationOptions) -> Iterator[EvaluationTarget]:
    base = options.url
    # The ready file of this project's own server names its tokens.
    own = base is None or _is_own_server(project, base)
    if base is None:
        wait_for_server(options.timeout)
        base = read_ready_file(project.ready_file).inference
    with Client(None if own else base, timeout=options.timeout) as client:
        served = served_model(client, options.name, options.version)
        recipe = _recipe(project, served.name, options)
        place = f"{base.rstrip('/')}/predictions/{served}"
        source = ServedSource(client, place, served.name, served.version)
        yield EvaluationTarget(served.name, source, recipe)


def _is_own_server(project: Project, url: str) -> bool:
    try:
        return _host_and_port(read_ready_file(project.ready_file).inference) == _host_and_port(url)
    except VestalError:
        return False


def _host_and_port(url: str) -> tuple[str, int | None]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return "127.0.0.1" if host == "localhost" else host, parts.port
