"""What `vestal evaluate` is asked to measure: weights, an archive, or a served model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vestal.archive.pack import find_weights
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
from vestal.mar.store import find_archive, model_of
from vestal.mar.unpacking import is_unpacked
from vestal.models import find_model, handler_options
from vestal.project import Project, ReadyFile
from vestal.recipes.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Asked:
    """What the user said.

    `target`: a model's name, an archive, or a URL. `model`: the served name, where a URL has none.
    """

    target: str
    weights: str | None = None
    version: str | None = None
    served: bool = False
    model: str | None = None
    recipe: str | None = None
    timeout: float = 60.0

    @property
    def is_url(self) -> bool:
        return self.target.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Target:
    """`trained_on`: the data set that its weights come from, as far as it says."""

    name: str
    source: Source
    recipe: Recipe
    trained_on: str | None = None


@contextmanager
def opened(project: Project, asked: Asked) -> Iterator[Target]:
    """Finds what is meant, and the recipe that has the test data for it.

    Raises:
        UsageError: options that contradict each other, or a name that nothing has.
        VestalError: it cannot be read, or no server runs.
    """
    if asked.weights and (asked.is_url or asked.served or asked.version):
        raise UsageError("--weights is for weights in process: leave URL, --served, --version out")
    if asked.is_url or asked.served:
        with _served(project, asked) as target:
            yield target
    elif asked.version or _is_archive(project, asked.target):
        archive = find_archive(project, asked.target, asked.version)
        name, _, trained_on = model_of(archive)
        yield Target(name, ArchiveSource(archive), _recipe(project, name, asked), trained_on)
    else:
        recipe = _recipe(project, asked.target, asked)
        with tempfile.TemporaryDirectory(prefix="vestal-weights-") as scratch:
            run = find_weights(project, asked.target, asked.weights, Path(scratch) / "brought")
            output = handler_options(find_model(project, run.model)).get("output")
            source = WeightsSource(run, asked.weights, output)
            yield Target(asked.target, source, recipe, run.dataset)


def _recipe(project: Project, name: str, asked: Asked) -> Recipe:
    try:
        return load_recipe(project, asked.recipe or name)
    except UsageError as error:
        hint = "" if asked.recipe else "; --recipe NAME says whose test data fits"
        raise UsageError(f"{error}{hint}") from None


def _is_archive(project: Project, target: str) -> bool:
    """A path, or an archive's file name in the store: not a model's name."""
    stored = project.model_store / f"{target}.mar"
    return target.endswith(".mar") or is_unpacked(Path(target)) or stored.is_file()


@contextmanager
def _served(project: Project, asked: Asked) -> Iterator[Target]:
    if asked.is_url:
        base, name, version = _read_url(asked)
        # Of this project's own server the ready file knows where the tokens are.
        own = _own_server(project)
        mine = own is not None and _where(own.inference) == _where(base)
    else:
        wait_for_server(asked.timeout)
        base = read_ready_file(project.ready_file).inference
        name, version, mine = asked.model or asked.target, asked.version, True
    recipe = _recipe(project, name, asked)
    place = "/".join([base, "predictions", name, *([version] if version else [])])
    with Client(None if mine else base, timeout=asked.timeout) as client:
        yield Target(name, ServedSource(client, place, name, version), recipe)


def _read_url(asked: Asked) -> tuple[str, str, str | None]:
    """The server's address, the model and the version that a URL and the options say."""
    parts = urlsplit(asked.target)
    path = [part for part in parts.path.split("/") if part]
    if path and (path[0] != "predictions" or len(path) not in (2, 3)):
        path = [""]
    name, version = [*path[1:], None, None][:2]
    name, version = asked.model or name, asked.version or version
    if name is None:
        raise UsageError(
            f"{asked.target} names no model: say http://host:port/predictions/NAME[/VERSION], or "
            "http://host:port with --model NAME"
        )
    return f"{parts.scheme}://{parts.netloc}", name, version


def _own_server(project: Project) -> ReadyFile | None:
    try:
        return read_ready_file(project.ready_file)
    except VestalError:
        return None


def _where(address: str) -> tuple[str, int | None]:
    parts = urlsplit(address)
    host = parts.hostname or ""
    return "127.0.0.1" if host == "localhost" else host, parts.port
