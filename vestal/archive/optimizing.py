"""Stage an archive whose weights are optimized, and measure what that costs in accuracy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vestal.archive.stage import engine_of, stage
from vestal.errors import UsageError, VestalError
from vestal.inprocess.frontend import Frontend
from vestal.inprocess.loaded_archive import load_staged
from vestal.optimize.convert import BY_ENGINE, QUANTIZED, is_quantized
from vestal.optimize.data import InputSet, OptimizationData, ReadInputs
from vestal.optimize.gate import Measurement, measure
from vestal.optimize.recording import record, save
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.runs import Run
from vestal_handlers.engines import BY_SUFFIX


@dataclass(frozen=True)
class Optimization:
    """What an archive's bill of materials says about its accuracy.

    Attributes:
        calibration: name of the inputs that the quantization was calibrated with; None: none.
        calibration_inputs: their number.
        careful: whether layers were kept in fp32, as int8 in all of them lost too much accuracy.
        max_drop: the largest accepted drop.
    """

    calibration: str | None
    calibration_inputs: int
    careful: bool
    max_drop: float
    measurement: Measurement

    def text(self) -> str:
        """One or two sentences for people."""
        measured = self.measurement.text()
        measured = measured[0].upper() + measured[1:]
        if self.calibration is None:
            return measured
        kept = "; the layers that need it are kept in fp32" if self.careful else ""
        return (
            f"Calibrated with {self.calibration_inputs:,} inputs of {self.calibration}{kept}\n"
            f"{measured}"
        )

    def facts(self) -> dict[str, Any]:
        """As JSON values, for the bill of materials and index.json."""
        facts = asdict(self)
        return {
            **{key: facts[key] for key in facts if key != "measurement"},
            **facts["measurement"],
        }


@dataclass(frozen=True)
class Optimizer:
    """Stages a run with an engine and a precision, and compares it with its weights in fp32.

    Attributes:
        models: the project with the model folder.
        scratch: a folder for temporary files.
        reference: a staged archive of the run's own weights in fp32.
        data: None: that of the weights' data set.
        read: reads the inputs in a file or folder; None: there are none.
    """

    project: Project
    models: Project
    run: Run
    scratch: Path
    reference: Path
    data: OptimizationData | None
    read: ReadInputs | None

    def stage(
        self, target: Path, engine: str | None, precision: str, *, name: str, version: str
    ) -> Optimization:
        """Fill the folder `target`.

        Args:
            engine: None: that of the run's own weights.
            name, version: of the archive.

        Raises:
            UsageError: the engine has no artifacts in int8, or there is too little data.
            VestalError: the conversion fails, or the drop is larger than `max_drop`.
        """
        engine = engine or engine_of(self.reference, self.run.artifacts[0])
        data, frontend = self.data or OptimizationData(), Frontend.of(self.project)
        # The weights of a language model are quantized when they are loaded.
        when_loaded = engine == "transformers"
        quantizes = precision == "int8" and not when_loaded and not self._is_quantized(engine)
        if precision == "int8" and engine not in QUANTIZED and not when_loaded:
            raise UsageError(
                f"the {engine} engine has no int8: pass --engine {' or '.join(QUANTIZED)}"
            )
        recipe = load_recipe(self.models, self.run.model)
        calibration, evaluation = data.load(
            recipe, self.run, self.read or _no_files, self._schema, calibrated=quantizes
        )
        inputs = self._record(calibration, frontend) if calibration else None

        def attempt(*, careful: bool) -> Measurement:
            shutil.rmtree(target, ignore_errors=True)
            stage(
                target,
                self.models,
                self.run,
                engine=engine if engine in BY_ENGINE else None,
                precision=precision,
                calibration=inputs,
                careful=careful,
                reference=lambda: self.reference,
                name=name,
                version=version,
            )
            return measure(recipe, self.reference, target, self.run.model, evaluation, frontend)

        found, careful = attempt(careful=False), False
        if found.drop > data.max_drop and calibration:
            found, careful = attempt(careful=True), True
        if not found.drop <= data.max_drop:  # NaN is refused, too
            raise VestalError(
                f"{engine} in {precision} loses too much: {found.text()}. At most "
                f"{data.max_drop:g} is accepted (--max-drop); calibrate with more or other "
                "inputs, or use another precision"
            )
        count = len(calibration.requests) if calibration else 0
        source = calibration.name if calibration else None
        return Optimization(source, count, careful, data.max_drop, found)

    def _is_quantized(self, engine: str) -> bool:
        artifacts = [Path(name) for name in self.run.artifacts]
        return any(
            BY_SUFFIX.get(each.suffix) == engine and is_quantized(self.run.folder / each)
            for each in artifacts
        )

    def _record(self, calibration: InputSet, frontend: Frontend) -> Path:
        rows = record(self.reference, self.run.model, calibration.requests, frontend)
        file = self.scratch / "calibration.npz"
        save(rows, file)
        return file

    def _schema(self) -> Mapping[str, Any]:
        """JSON Schema of the model's input; empty if the handler describes none."""
        with load_staged(self.reference, self.run.model, batch_size=1) as loaded:
            described = loaded.describe()
        schema: Mapping[str, Any] = described.get("input") or {}
        return schema


def _no_files(path: Path, schema: Callable[[], Mapping[str, Any]]) -> Any:
    raise UsageError(f"{path} is not a data set of the recipe")
