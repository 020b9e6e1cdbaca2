"""What `vestal run` can load: an archive, or a model of the project that is not packed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vestal.archive.stage import stage
from vestal.archive.watching import sources_of
from vestal.archive.weights import find_weights, models_for
from vestal.errors import UsageError
from vestal.inprocess import LoadedArchive
from vestal.inprocess.loaded_archive import load_staged
from vestal.inprocess.module_scope import forget_handlers
from vestal.mar.store import find_archive, is_path_or_file
from vestal.model_folders import model_name, model_names
from vestal.project import Project


@dataclass(frozen=True)
class Runnable:
    """An archive, or else the model `name` with options of `vestal pack`."""

    project: Project
    name: str
    archive: Path | None = None
    weights: str | None = None
    engine: str | None = None
    precision: str | None = None

    @contextmanager
    def loaded(
        self, batch_size: int, *, decode: bool = False, reload: bool = False
    ) -> Iterator[LoadedArchive]:
        """Load it.

        Args:
            batch_size, decode: see `LoadedArchive`.
            reload: forget the imported handlers at the end, so that the next load imports them
                again.

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
            if reload:
                forget_handlers()

    def places(self) -> list[Path]:
        """Return the files and folders that affect its predictions.

        Raises:
            VestalError: the model has no training.
        """
        if self.archive is not None:
            return [self.archive]
        return sources_of(self.project, self.name, self.weights)


def find_runnable(
    project: Project,
    given: str,
    *,
    version: str | None = None,
    weights: str | None = None,
    engine: str | None = None,
    precision: str | None = None,
) -> Runnable:
    """Find an archive by path, by file name in the store or by `version`; or a model by name.

    Relative paths start at the project's root.

    Raises:
        UsageError: nothing has this name, or an archive is given options for models.
    """
    models = model_names(project)
    given = model_name(project, given)
    named = is_path_or_file(project, given)
    if given in models and version is None and not named:
        if weights is not None and project.path(weights).exists():
            weights = str(project.path(weights))
        return Runnable(project, given, None, weights, engine, precision)
    try:
        archive = find_archive(project, given, version)
    except UsageError as error:
        if named or version is not None:
            raise
        known = ", ".join(models)
        raise UsageError(f"{error}; the project's models are {known}") from None
    options = {"--weights": weights, "--engine": engine, "--precision": precision}
    wrong = [option for option, value in options.items() if value is not None]
    if wrong:
        raise UsageError(
            f"{archive} is packed, so {', '.join(wrong)} cannot be set. Pass the model's name "
            "to run it as it would be packed"
        )
    return Runnable(project, archive.name, archive)


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
    """Load a model of the project as `vestal pack` would pack it, without making an archive.

    Args:
        weights: see `vestal.archive.pack.pack`; None: the newest training.
        batch_size, decode: see `LoadedArchive`.

    Raises:
        UsageError: model, engine or weights are unknown.
        VestalError: the model has no training, or does not load.
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
    """Fill a new folder with the contents of an archive, without sample and bill of materials.

    Its version is the training's number, or `not-packed` for weights from elsewhere.
    """
    import vestal_handlers  # noqa: F401 - before the staged copy can be imported

    with tempfile.TemporaryDirectory(prefix="vestal-run-") as scratch:
        models, _ = models_for(project, name, weights, None, None, Path(scratch))
        run = find_weights(models, name, weights, Path(scratch) / "not-packed")
        version = run.folder.name
        stage(folder, models, run, name=name, version=version, engine=engine, precision=precision)
