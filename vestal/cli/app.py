"""The commands, in the order in which they are used."""

from __future__ import annotations

from typing import Annotated

import typer

from vestal.cli import shadow
from vestal.cli.apply import apply
from vestal.cli.batch import batch
from vestal.cli.canary import canary
from vestal.cli.check import check
from vestal.cli.diff import diff
from vestal.cli.evaluate import evaluate
from vestal.cli.fetch import fetch
from vestal.cli.history import history
from vestal.cli.load import load
from vestal.cli.logs import logs
from vestal.cli.models import models
from vestal.cli.new import new
from vestal.cli.pack import pack
from vestal.cli.predict import predict
from vestal.cli.register import register
from vestal.cli.rollback import rollback
from vestal.cli.run import run
from vestal.cli.scale import scale
from vestal.cli.serve import serve
from vestal.cli.set_default import set_default
from vestal.cli.status import status
from vestal.cli.stop import stop
from vestal.cli.train import train
from vestal.cli.unregister import unregister

app = typer.Typer(
    help="Train, pack, serve and measure PyTorch models with TorchServe.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback is a bug in Vestal; plain text can be copied into a report.
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        from vestal import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print Vestal's version and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    pass


for command in (
    new,
    fetch,
    train,
    evaluate,
    pack,
    check,
    run,
    diff,
    serve,
    stop,
    apply,
    status,
    history,
    rollback,
    canary,
    logs,
    models,
    register,
    scale,
    set_default,
    unregister,
    predict,
    batch,
    load,
):
    app.command()(command)
app.add_typer(shadow.app, name="shadow")
