"""`vestal pack`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from vestal.cli.output import Json, err, out, print_json
from vestal.errors import UsageError
from vestal.files.text import lines_of, read_text


def pack(
    model: Annotated[str, typer.Argument(help="A model folder's name.")],
    version: Annotated[str, typer.Option(help="Of the archive, such as 1.0.")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="A training's folder; a state_dict, TorchScript, .pt2, .onnx or safetensors file; "
            "a Hugging Face folder; or a name that the recipe knows. By default the newest run."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="eager, torchscript, exported or onnx; by default the weights' own."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or fp16; by default model-config.yaml's.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Labels of weights from elsewhere: one label per line, in the order of the "
            "classes, or an index_to_name.json."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace this version if its content differs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pack weights, handler, labels and a sample into model_store/MODEL-VERSION.mar."""
    from vestal.inprocess.quick_imports import quick_imports

    with err.status("Packing"), quick_imports():
        from vestal.archive.pack import pack as pack_archive
        from vestal.project import Project

        packed = pack_archive(
            Project.here(),
            model,
            version=version,
            weights=weights,
            engine=engine,
            precision=precision,
            labels=_read_labels(labels) if labels else None,
            force=force,
        )
    for warning in packed.warnings:
        err.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    if as_json:
        print_json({**vars(packed), "archive": str(packed.archive)})
        return
    size = packed.archive.stat().st_size / 1e6
    state = "packed" if packed.new else "unchanged:"
    out.print(f"{state} {packed.archive} ({size:.1f} MB, sha256 {packed.sha256[:12]})")
    if packed.replaced:
        out.print(Text(f"replaced: {_said(packed.replaced)}"), soft_wrap=True)
    out.print(f"weights: {packed.source}")
    if packed.no_sample:
        out.print(f"no sample: {packed.no_sample}, so a server cannot verify its answers")
    out.print(f"next: vestal serve --models {model}={packed.archive.name}", style="dim")


def _said(entry: Mapping[str, Any]) -> str:
    """What stood there, as the index knew it."""
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
        raise UsageError(f"{file} holds no labels: write one a line, in the classes' order")
    return found


def _labels_in_json(file: Path) -> list[str]:
    from vestal_handlers.labels import labels_in

    try:
        names = json.loads(read_text(file))
        if not isinstance(names, dict) or not names:
            raise ValueError("it must be an object from class index to label")
    except ValueError as error:
        raise UsageError(f"the labels in {file} cannot be read: {error}") from None
    try:
        return labels_in(names)
    except KeyError as error:
        raise UsageError(f"{file} has {len(names)} labels but none for class {error}") from None
