"""`vestal predict`: a served model's answers beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import typer
from rich.table import Table

from vestal.cli.labels import actual_labels
from vestal.cli.output import Json, err, out, print_json
from vestal.client import Answer, Client, ClientError, NotFound
from vestal.errors import UsageError

Said = Answer | ClientError


def predict(
    model: Annotated[str, typer.Argument(help="As it is served.")],
    inputs: Annotated[list[Path], typer.Argument(help="Files, or folders of files.")],
    version: Annotated[str | None, typer.Option(help="By default the default version.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the images with actual and predicted, here.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="The truth: lines of FILE,LABEL; by default each file's folder."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="For each input, in seconds.")] = 30.0,
    url: Annotated[str | None, typer.Option(help="By default the server of this project.")] = None,
    as_json: Json = False,
) -> None:
    """Ask a served model; finds the server, its tokens and the truth by itself."""
    files = expand(inputs)
    with Client(url, timeout=timeout) as client:
        said = client.predict_many(model, files, version=version)
    if isinstance(said[0], NotFound):
        raise said[0]  # once, not for every file
    known = {top["label"] for answer in said if is_class(answer) for top in answer["top"]}
    actual = actual_labels(files, labels, known)
    if as_json:
        print_json([_fact(*row) for row in zip(files, actual, said, strict=True)])
    else:
        _print_table(files, actual, said)
    if plot:
        _draw(plot, model, files, actual, said)
        err.print(f"drawn: {plot}")
    failed = sum(isinstance(one, ClientError) for one in said)
    if failed:
        err.print(f"{failed} of {len(said)} failed")
        raise typer.Exit(1)


def expand(inputs: Sequence[Path]) -> list[Path]:
    """Files as they are; of a folder every file below it, sorted.

    Raises:
        UsageError: a path that is not there, or a folder without files.
    """
    files: list[Path] = []
    for given in inputs:
        if given.is_dir():
            found = sorted(
                file
                for file in given.rglob("*")
                if file.is_file() and not file.name.startswith(".")
            )
            if not found:
                raise UsageError(f"no files in {given}")
            files += found
        elif given.is_file():
            files.append(given)
        else:
            raise UsageError(f"no file or folder {given}")
    return files


def is_class(said: Said) -> TypeGuard[Answer]:
    """Whether it is an answer of our classifiers."""
    return isinstance(said, dict) and {"label", "probability", "top"} <= said.keys()


def _fact(file: Path, actual: str | None, said: Said) -> dict[str, Any]:
    fact: dict[str, Any] = {"file": str(file), "actual": actual}
    if isinstance(said, ClientError):
        error = {"type": said.server_type or type(said).__name__, "message": str(said)}
        return {**fact, "error": {**error, "status": said.status, "request_id": said.request_id}}
    return {**fact, "answer": said.value, "version": said.version, "request_id": said.request_id}


def _print_table(files: Sequence[Path], actual: Sequence[str | None], said: Sequence[Said]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("file", "actual", "predicted"):
        table.add_column(column, overflow="fold")
    table.add_column("probability", justify="right")
    for file, truth, one in zip(files, actual, said, strict=True):
        if isinstance(one, ClientError):
            table.add_row(str(file), truth or "", f"[red]{one}[/]", "")
        elif is_class(one):
            style = "red" if truth not in (None, one["label"]) else ""
            table.add_row(
                str(file), truth or "", one["label"], f"{one['probability']:.1%}", style=style
            )
        else:
            table.add_row(str(file), truth or "", str(one.value), "")
    out.print(table)
    judged = [
        (truth, one["label"])
        for truth, one in zip(actual, said, strict=True)
        if truth is not None and is_class(one)
    ]
    if judged:
        right = sum(truth == label for truth, label in judged)
        out.print(f"{right} of {len(judged)} right ({right / len(judged):.1%})")


def _draw(
    file: Path,
    model: str,
    files: Sequence[Path],
    actual: Sequence[str | None],
    said: Sequence[Said],
) -> None:
    with err.status("Drawing"):
        from PIL import Image, ImageOps

        from vestal.training.plots import Seen, draw_grid

        def upright(image: Path) -> Image.Image:
            with Image.open(image) as opened:
                return ImageOps.exif_transpose(opened)

        seen = [
            Seen(upright(image), truth, one["label"])
            for image, truth, one in zip(files, actual, said, strict=True)
            if is_class(one)
        ]
        if not seen:
            raise UsageError(f"nothing to draw: no input got a class from {model}")
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_grid(seen, file)
