"""What `vestal run` is asked to run: an archive, or a model of the project that is not packed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vestal.archive.pack import find_weights
from vestal.archive.stage import stage
from vestal.archive.watching import sources_of
from vestal.errors import UsageError
from vestal.inprocess import LoadedArchive
from vestal.inprocess.loaded_archive import load_staged
from vestal.inprocess.module_scope import forget_handlers
from vestal.mar.store import find_archive, is_path_or_file
from vestal.model_folders import find_model, model_name, model_names
from vestal.project import Project


@dataclass(frozen=True)
class Target:
    """`archive`, or else the model `name`, staged with what `vestal pack` would be told."""

    project: Project
    name: str
    archive: Path | None = None
    weights: str | None = None
    engine: str | None = None
    precision: str | None = None

    @contextmanager
    def loaded(
        self, batch_size: int, *, decode: bool = False, again: bool = False
    ) -> Iterator[LoadedArchive]:
        """Loads it; `again`: at the end the handlers are forgotten, so that a next time is anew.

        Raises:
            VestalError: it does not load, or cannot be staged.
        """
        try:
            if self.archive is not None:
                with LoadedArchive(self.archive, batch_size, decode=decode) as loaded:
                    yield loaded
            else:
                with open_model(
                    self.project,
                    self.name,
                    weights=self.weights,
                    engine=self.engine,
                    precision=self.precision,
                    batch_size=batch_size,
                    decode=decode,
                ) as loaded:
                    yield loaded
        finally:
            if again:
                forget_handlers()

    def places(self) -> list[Path]:
        """The files and folders that it is made of.

        Raises:
            VestalError: it was never trained.
        """
        if self.archive is not None:
            return [self.archive]
        return sources_of(self.project, self.name, self.weights)


def find_target(
    project: Project,
    given: str,
    *,
    version: str | None = None,
    weights: str | None = None,
    engine: str | None = None,
    precision: str | None = None,
) -> Target:
    """What is meant: a path; an archive of the store by its file name, or by `version`; a model.

    Paths start at the project's root.

    Raises:
        UsageError: there is none, or an archive is told what is a model's to say.
    """
    models = model_names(project)
    given = model_name(project, given)
    named = is_path_or_file(project, given)
    if given in models and version is None and not named:
        if weights is not None and project.path(weights).exists():
            weights = str(project.path(weights))
        return Target(project, given, None, weights, engine, precision)
    try:
        archive = find_archive(project, given, version)
    except UsageError as error:
        if named or version is not None:
            raise
        known = ", ".join(models)
        raise UsageError(f"{error}; nor is it one of the models {known}") from None
    told = {"--weights": weights, "--engine": engine, "--precision": precision}
    wrong = [option for option, value in told.items() if value is not None]
    if wrong:
        raise UsageError(
            f"{archive} is packed, so {', '.join(wrong)} cannot be set any more: name the model "
            "to run it as it would be packed"
        )
    return Target(project, archive.name, archive)


@contextmanager
def open_model(
    project: Project,
    name: str,
    *,
    weights: str | Path | None = None,
    engine: str | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    decode: bool = False,
) -> Iterator[LoadedArchive]:
    """A model of the project as `vestal pack` would pack it now, loaded, with no archive made.

    Args:
        weights: as of `vestal pack`; None: the newest run.
        batch_size, decode: as of LoadedArchive.

    Raises:
        UsageError: no such model, engine or weights.
        VestalError: it was never trained, or does not load.
    """
    with tempfile.TemporaryDirectory(prefix="vestal-run-") as scratch_:
        scratch = Path(scratch_)
        stage_model(
            scratch / name, project, name, weights=weights, engine=engine, precision=precision
        )
        with load_staged(scratch / name, name, batch_size, decode=decode) as loaded:
            yield loaded


def stage_model(
    folder: Path,
    project: Project,
    name: str,
    *,
    weights: str | Path | None = None,
    engine: str | None = None,
    precision: str | None = None,
) -> None:
    """Fills a new folder with what an archive of the model would hold now, but sample and bill.

    Its version is the run's number.
    """
    import vestal_handlers  # noqa: F401 - the project's own, not the copy that is staged

    find_model(project, name)
    with tempfile.TemporaryDirectory(prefix="vestal-run-") as brought:
        run = find_weights(project, name, weights, Path(brought) / "brought")
        version = run.folder.name
        stage(folder, project, run, name=name, version=version, engine=engine, precision=precision)
