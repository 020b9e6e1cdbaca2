"""`vestal train`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vestal.cli.arguments import Data, Dataset, Model
from vestal.cli.output import Json, err, out, print_json, print_warning
from vestal.errors import UsageError
from vestal.project import Project

if TYPE_CHECKING:
    from vestal.runs import Run


def train(
    model: Model,
    dataset: Dataset = None,
    data: Data = None,
    epochs: Annotated[
        int | None, typer.Option(help="Number of epochs. Default: as in the recipe.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or mps. Default: auto.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Random seed for initial weights, order of the data and augmentation. Default: 0."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Model or folder of a training to distil from: the new model also learns its "
            "predictions."
        ),
    ] = None,
    prune: Annotated[
        float | None,
        typer.Option(help="Share of the channels to remove from trained weights before training."),
    ] = None,
    initial_weights: Annotated[
        str | None,
        typer.Option(
            help="Weights to begin with: folder of a training, name of a trained model, file, or "
            "name of weights in the recipe. Default: as in the recipe, else random. With --prune: "
            "the training to prune. Default: the newest."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the newest interrupted training.")
    ] = False,
    out_: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to create for the result. Default: runs/MODEL/NUMBER."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model with its recipe and keep the weights of the best epoch."""
    options = (dataset, data, epochs, seed, teacher, prune, initial_weights)
    if resume and any(value is not None for value in options):
        raise UsageError(
            "--resume continues with the options of the interrupted training: it can be combined "
            "with --device, --out and --json only"
        )
    project = Project.here()
    with err.status("Loading PyTorch"):
        from vestal.model_folders import model_name
        from vestal.training import train as training
        from vestal.training.settings import Settings
        from vestal_handlers.labels import shared_labels

    model = model_name(project, model)
    if resume:
        run = training.resume(project, model, out_, device)
    else:
        settings = Settings(
            dataset=dataset,
            data=str(data) if data else None,
            epochs=epochs,
            device=device or "auto",
            seed=seed or 0,
            teacher=teacher,
            prune=prune,
            initial_weights=initial_weights,
        )
        run = training.train(project, model, settings, out_)
    if shared := shared_labels(run.labels or ()):
        print_warning(shared)
    if as_json:
        print_json({**vars(run), "folder": str(run.folder)})
        return
    out.print(
        f"{run.model} on {run.dataset}: [bold]{run.metrics_text()}[/] on {run.test_size:,} "
        f"held-out examples (epoch {run.best_epoch} of {run.epochs}, seed {run.seed})"
    )
    if run.compression:
        _print_compression(run)
    out.print(f"Saved in {run.folder}")
    version = free_version(project.model_store, run.model)
    out.print(f"Next: vestal pack {run.model} --version {version}", style="dim")


def free_version(store: Path, model: str) -> str:
    """The first of 1.0, 2.0, ... that is not in the store."""
    numbers = (f"{number}.0" for number in itertools.count(1))
    return next(version for version in numbers if not (store / f"{model}-{version}.mar").exists())


def _print_compression(run: Run) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column(str(run.compression["kind"]))
    columns = {run.figure: "{:.4g}", "parameters": "{:,}", "bytes": "{:,}"}
    columns["ms_per_batch_of_16"] = "{:.2f}"
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for when in ("before", "after"):
        facts = run.compression[when]
        table.add_row(when, *(form.format(facts[name]) for name, form in columns.items()))
    out.print(table)
