"""`vestal pack`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from vestal.cli.arguments import Data, Engine, Model, Precision, Weights
from vestal.cli.output import Json, count_of, err, out, print_json, print_warning
from vestal.errors import UsageError
from vestal.files.text import lines_of, read_text

if TYPE_CHECKING:
    from vestal.inprocess.frontend import RawRequest


def pack(
    model: Model,
    version: Annotated[str, typer.Option(help="Version of the archive, such as 1.0.")],
    weights: Weights = None,
    engine: Engine = None,
    precision: Precision = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Labels of the classes, for weights from elsewhere: a text file with one label "
            "per line in class order, or an index_to_name.json."
        ),
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Input to pack with its prediction, which a server verifies. Default: one of the "
            "test split, or the handler's example().",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Task of a Hugging Face folder, such as zero-shot-classification. Default: by its "
            "architecture."
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Hugging Face folder of the model that an adapter was trained for.",
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Inputs to calibrate int8 with: a file, a folder, or a data set of the recipe. "
            "Default: the training split of the weights' data set.",
        ),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Inputs to compare with fp32: a file, a folder (one subfolder for each label to "
            "measure accuracy), or a data set of the recipe. Default for int8: the test split.",
        ),
    ] = None,
    data: Data = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Largest accepted loss against fp32, in points of accuracy. Default: 0.5.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an archive of this version that differs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pack weights, handler, labels and a sample input into model_store/MODEL-VERSION.mar."""
    with err.status("Packing"):
        from vestal.archive.pack import pack as pack_archive
        from vestal.model_folders import model_name
        from vestal.project import Project

        project = Project.here()
        model = model_name(project, model)
        compared_with = None
        if any(each is not None for each in (calibrate, evaluate, data, max_drop)):
            from vestal.optimize.data import OptimizationData

            drop = OptimizationData.max_drop if max_drop is None else max_drop
            compared_with = OptimizationData(calibrate, evaluate, drop, data)
        packed = pack_archive(
            project,
            model,
            version=version,
            weights=weights,
            engine=engine,
            precision=precision,
            labels=_read_labels(labels) if labels else None,
            sample=sample,
            force=force,
            task=task,
            base=base,
            data=compared_with,
            read=_read_inputs,
        )
    for warning in packed.warnings:
        print_warning(warning)
    if as_json:
        facts = packed.optimization.facts() if packed.optimization else None
        print_json({**vars(packed), "archive": str(packed.archive), "optimization": facts})
        return
    size = packed.archive.stat().st_size / 1e6
    verb = "Packed" if packed.new else "Unchanged:"
    out.print(f"{verb} {packed.archive} ({size:.1f} MB, sha256 {packed.sha256[:12]})")
    if packed.replaced:
        out.print(Text(f"Replaced: {_summary(packed.replaced)}"), soft_wrap=True)
    out.print(f"Weights: {packed.source}")
    if packed.task:
        out.print(f"Task: {packed.task}")
    if packed.optimization:
        out.print(Text(packed.optimization.text()), soft_wrap=True)
    if packed.no_sample:
        out.print(
            f"No sample: {packed.no_sample}. A server cannot verify the predictions; pass an input "
            "with --sample FILE.",
            soft_wrap=True,
        )
    command = "register" if project.ready_file.exists() else "serve"  # a server runs here
    out.print(f"Next: vestal {command} {packed.archive.stem}", style="dim")


def _read_inputs(path: Path, schema: Callable[[], Mapping[str, Any]]) -> Sequence[RawRequest]:
    from vestal.cli.run_inputs import RunInputs, requests_of

    return requests_of(RunInputs([str(path)]).read(), schema)


def _summary(entry: Mapping[str, Any]) -> str:
    """What the index recorded about a replaced archive."""
    metrics = entry.get("metrics") or {}
    figures = [f"{name} {value:.4g}" for name, value in metrics.items()]
    when = [f"packed {entry['packed']}"] if "packed" in entry else ["not in the index"]
    known = [f"sha256 {str(entry['sha256'])[:12]}", entry.get("dataset"), *figures, *when]
    return ", ".join(str(each) for each in known if each)


def _read_labels(file: Path) -> list[str]:
    if file.suffix.lower() == ".json":
        return _labels_in_json(file)
    found = [label for line in lines_of(read_text(file)) if (label := line.strip(" \t"))]
    if not found:
        raise UsageError(f"{file} has no labels: expected one label per line, in class order")
    return found


def _labels_in_json(file: Path) -> list[str]:
    from vestal_handlers.labels import labels_in

    try:
        names = json.loads(read_text(file))
        if not isinstance(names, dict) or not names:
            raise ValueError("expected an object from class index to label")
    except ValueError as error:
        raise UsageError(f"{file} cannot be read as labels: {error}") from None
    try:
        return labels_in(names)
    except KeyError as error:
        raise UsageError(
            f"{file} has {count_of(len(names), 'label')} but none for class {error}"
        ) from None
