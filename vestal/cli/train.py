"""`vestal train`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vestal.cli.output import Json, err, out, print_json
from vestal.errors import UsageError

if TYPE_CHECKING:
    from vestal.runs import Run


def train(
    model: Annotated[str, typer.Argument(help="A model folder's name.")],
    dataset: Annotated[
        str | None,
        typer.Option(help="A data set of its recipe; need not be said where there is only one."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The folder or file that holds the data set, if not downloaded."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="By default the recipe's.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto (also by default), cpu, cuda or mps.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the weights, the order and the augmentation; by default 0."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Learn from this model too (distillation): a name, or a run's folder."),
    ] = None,
    prune: Annotated[
        float | None,
        typer.Option(help="Take this share of the channels away from trained weights, and train."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Weights to begin with: a run, a file, or a name that the recipe knows. With "
            "--prune the run to prune, by default the model's newest."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest training that was stopped.")
    ] = False,
    out_: Annotated[
        Path | None, typer.Option("--out", help="A new folder; by default runs/MODEL/NUMBER.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model by its recipe; the best epoch's weights are kept."""
    said = (dataset, data, epochs, seed, teacher, prune, start)
    if resume and any(value is not None for value in said):
        raise UsageError(
            "--resume goes on as the training was begun: leave the other options out (but --device)"
        )
    with err.status("Loading PyTorch"):
        from vestal.project import Project
        from vestal.training import train as training
        from vestal.training.settings import Settings
        from vestal_handlers.labels import shared_labels

    if resume:
        run = training.resume(Project.here(), model, out_, device)
    else:
        settings = Settings(
            dataset=dataset,
            data=str(data) if data else None,
            epochs=epochs,
            device=device or "auto",
            seed=seed or 0,
            teacher=teacher,
            prune=prune,
            start=start,
        )
        run = training.train(Project.here(), model, settings, out_)
    if shared := shared_labels(run.labels or ()):
        err.print(Text(f"warning: {shared}", style="yellow"), soft_wrap=True)
    if as_json:
        print_json({**vars(run), "folder": str(run.folder)})
        return
    out.print(
        f"{run.model} on {run.dataset}: [bold]{run.figures()}[/] of {run.test_size:,} held out "
        f"(epoch {run.best_epoch} of {run.epochs}, seed {run.seed})"
    )
    if run.compression:
        _print_compression(run)
    out.print(f"saved in {run.folder}")
    version = free_version(Project.here().model_store, run.model)
    out.print(f"next: vestal pack {run.model} --version {version}", style="dim")


def free_version(store: Path, model: str) -> str:
    """The first of 1.0, 2.0, ... that the store does not hold."""
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
