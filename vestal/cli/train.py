"""`vestal train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vestal.cli.output import Json, err, out, print_json


def train(
    model: Annotated[str, typer.Argument(help="A model folder's name.")],
    dataset: Annotated[str, typer.Option(help="What to train on: a data set of its recipe.")],
    data: Annotated[
        Path | None, typer.Option(help="The folder that holds the data set, if not downloaded.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="By default the recipe's.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the weights, the order and the augmentation.")] = 0,
    out_: Annotated[
        Path | None, typer.Option("--out", help="A new folder; by default runs/MODEL/NUMBER.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model by its recipe; the best epoch's weights are kept."""
    with err.status("Loading PyTorch"):
        from vestal.project import Project
        from vestal.training.train import train as train_model

    run = train_model(
        Project.here(),
        model,
        dataset=dataset,
        data=data,
        epochs=epochs,
        device=device,
        seed=seed,
        out=out_,
    )
    if as_json:
        print_json({**vars(run), "folder": str(run.folder)})
        return
    out.print(
        f"{run.model} on {run.dataset}: test accuracy [bold]{run.test_accuracy:.2%}[/] "
        f"of {run.test_size:,} (validation {run.val_accuracy:.2%}, "
        f"epoch {run.best_epoch} of {run.epochs}, seed {run.seed})"
    )
    out.print(f"saved in {run.folder}")
    out.print(f"next: vestal pack {run.model} --version 1.0", style="dim")
