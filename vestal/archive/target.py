"""What `vestal run` is asked to run: an archive, or a model of the project that is not packed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vestal.archive.run import LoadedArchive, open_model
from vestal.archive.watching import sources_of
from vestal.archive.working import forget_handlers
from vestal.errors import UsageError
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
    from vestal.batch.archives import find_archive, is_path_or_file
    from vestal.models import model_names

    models = model_names(project)
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
            f"{archive} is packed, so {', '.join(wrong)} cannot be said any more: name the model "
            "to run it as it would be packed"
        )
    return Target(project, archive.name, archive)
