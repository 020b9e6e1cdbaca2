"""Stage everything of an archive but its bill of materials, and try it: sample and accuracy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vestal.archive.sample import add_sample
from vestal.archive.stage import engine_of, stage
from vestal.errors import UsageError
from vestal.mar.layout import CONFIG
from vestal.mar.manifest import read_manifest
from vestal.model_folders import find_model, handler_options
from vestal.optimize.convert import BY_ENGINE
from vestal.project import Project
from vestal.runs import Run

if TYPE_CHECKING:
    from vestal.archive.optimizing import Optimization
    from vestal.optimize.data import OptimizationData, ReadInputs


@dataclass(frozen=True)
class Staged:
    """The folder of an archive without its bill of materials.

    Attributes:
        engine, precision: what the handler really computes with.
        no_sample: why there is no sample; None if there is one.
        optimization: what the optimized weights were compared with; None: they were not.
    """

    folder: Path
    artifact: str
    engine: str
    precision: str
    no_sample: str | None
    optimization: Optimization | None


def stage_with_sample(
    project: Project,
    models: Project,
    run: Run,
    scratch: Path,
    *,
    name: str,
    version: str,
    engine: str | None,
    precision: str | None,
    sample: Path | None,
    data: OptimizationData | None,
    read: ReadInputs | None,
) -> Staged:
    """Fill a folder below `scratch`; see `vestal.archive.pack.pack` for the other arguments.

    Args:
        models: the project with the model folder.

    Raises:
        UsageError, VestalError: as in `pack`.
    """
    folder = scratch / "staged"
    options = handler_options(find_model(models, run.model))
    engine = engine or (options.get("engine") if options.get("engine") in BY_ENGINE else None)
    requested = str(precision or options.get("precision", "fp32"))

    @cache
    def reference() -> Path:
        """The run's own weights in fp32, without an engine of the model folder's."""
        place = scratch / "reference"
        stage(place, models, run, name=name, version=version, precision="fp32", own_engine=False)
        return place

    optimization = None
    if requested == "int8" or data is not None:
        # Its metrics take longer to import than torch.
        from vestal.archive.optimizing import Optimizer

        optimizer = Optimizer(project, models, run, scratch, reference(), data, read)
        optimization = optimizer.stage(folder, engine, requested, name=name, version=version)
    else:
        stage(
            folder,
            models,
            run,
            name=name,
            version=version,
            engine=engine,
            precision=precision,
            reference=reference,
        )
    artifact = str(read_manifest(folder).serialized_file)
    used = handler_options(folder)
    made_of = str(used.get("engine") or engine_of(folder, artifact))
    if run.background not in (None, background := used.get("background", "white")):
        raise UsageError(
            f"{run.folder} was trained with a {run.background} background for transparent "
            f"images, but handler.background in {name}'s {CONFIG} is {background}. Set it to "
            f"{run.background}, or train again"
        )
    custom = made_of not in (*BY_ENGINE, "transformers")
    same = artifact == run.artifacts[0] and requested == "fp32" and not custom
    compared = folder if same or optimization else reference()
    added = add_sample(folder, compared, run, made_of, requested, sample)
    for bytecode in list(folder.rglob("__pycache__")):  # of the handler, which was just loaded
        shutil.rmtree(bytecode)
    return Staged(folder, artifact, made_of, added.precision, added.missing, optimization)
