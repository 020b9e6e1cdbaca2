"""`vestal predict`: a served model's answers beside the truth."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import typer
from rich.table import Table
from rich.text import Text

from vestal.cli.inputs import Given, fitted, gather
from vestal.cli.labels import actual_labels
from vestal.cli.output import Json, err, out, print_json
from vestal.cli.waiting import wait_for_server
from vestal.client import Client, ClientError, ConnectionFailed, NotFound, Prediction
from vestal.client.encoding import looks_like_path
from vestal.client.inference import is_refusal
from vestal.errors import UsageError

Said = Prediction | ClientError
DESCRIBED_WITHIN = 5.0  # seconds


def predict(
    model: Annotated[str, typer.Argument(help="As it is served.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files, or folders of files; of a table (.csv, .jsonl) each row is an input."
        ),
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be said again.")] = None,
    row: Annotated[
        list[str] | None, typer.Option(help="A row, as bmi=25,bp=90,s5=4.5; may be said again.")
    ] = None,
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
    given = gather(inputs or [], text or [], row or [])
    if url is None:
        wait_for_server(timeout)
    with Client(url, timeout=timeout) as client:
        schema = input_schema(client, model, version) if any(one.table for one in given) else {}
        given = fitted(given, schema)
        said = client.predict_many(model, [one.value for one in given], version=version)
        if isinstance(said[0], (ConnectionFailed, NotFound)):
            raise said[0]  # once, not for every input
        _advise(given, said)
        known = () if labels else known_labels(client, model, version, said)
    actual = actual_labels([one.file or Path() for one in given], labels, known)
    if as_json:
        print_json([_fact(*each) for each in zip(given, actual, said, strict=True)])
    else:
        _print(given, actual, said)
    if plot:
        _draw(plot, model, given, actual, said)
        err.print(f"drawn: {plot}")
    failed = sum(isinstance(one, ClientError) for one in said)
    if failed:
        err.print(f"{failed} of {len(said)} failed")
        raise typer.Exit(1)


def is_class(said: Said) -> TypeGuard[Prediction]:
    """Whether it is an answer of our classifiers."""
    return _has_fields(said, "label", "probability", "top")


def is_text(said: Said) -> TypeGuard[Prediction]:
    """Whether it is a text that our generator wrote."""
    return _has_fields(said, "text", "finish_reason")


def _has_fields(said: Said, *names: str) -> bool:
    if isinstance(said, ClientError) or not isinstance(said.value, dict):
        return False
    return said.value.keys() >= set(names)


def known_labels(
    client: Client, model: str, version: str | None, said: Sequence[Said]
) -> Collection[str]:
    """The labels that a classifier knows, by its description; of handlers of others those said.

    The description matters: an answer whose truth nobody said is wrong all the same.
    """
    if not any(is_class(answer) for answer in said):
        return ()
    labels = _described(client, model, version).get("labels")
    if isinstance(labels, list):
        return {str(label) for label in labels}
    return {top["label"] for answer in said if is_class(answer) for top in answer["top"]}


def input_schema(client: Client, model: str, version: str | None) -> Mapping[str, Any]:
    """The JSON Schema of a model's input; empty where it is not described."""
    schema = _described(client, model, version).get("input")
    return schema if isinstance(schema, dict) else {}


def _described(client: Client, model: str, version: str | None) -> Mapping[str, Any]:
    """What a handler says of itself; nothing where it does not, or has no reachable management."""
    try:
        found = client.describe(model, version, customized=True, timeout=DESCRIBED_WITHIN)
    except ClientError:
        return {}
    return found.customized if isinstance(found.customized, dict) else {}


def _advise(given: Sequence[Given], said: Sequence[Said]) -> None:
    """Replace a hint for callers of the client by one for the command line."""
    for one, error in zip(given, said, strict=True):
        if isinstance(error, ClientError) and is_refusal(error) and looks_like_path(one.value):
            hint = "The input was sent as text. To send a file, name it without --text"
            error.details = error.details._replace(hint=hint)


def _fact(given: Given, actual: str | None, said: Said) -> dict[str, Any]:
    fact: dict[str, Any] = {**given.fact, "actual": actual}
    if isinstance(said, ClientError):
        error = {"type": said.server_type or type(said).__name__, "message": str(said)}
        return {**fact, "error": {**error, "status": said.status, "request_id": said.request_id}}
    return {**fact, "answer": said.value, "version": said.version, "request_id": said.request_id}


def _print(given: Sequence[Given], actual: Sequence[str | None], said: Sequence[Said]) -> None:
    if any(is_text(one) for one in said):
        _print_texts(given, said)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("input", overflow="fold")
    judged = [(t, a["label"]) for t, a in zip(actual, said, strict=True) if t and is_class(a)]
    if judged:
        table.add_column("actual", overflow="fold")
    table.add_column("predicted", overflow="fold")
    if any(is_class(one) for one in said):
        table.add_column("probability", justify="right")
    first: dict[str, str] = {}
    for one, truth, answer in zip(given, actual, said, strict=True):
        wrong = is_class(answer) and truth not in (None, answer["label"])
        cells = [one.shown, *([truth or ""] if judged else []), *_cells(answer)]
        if isinstance(answer, ClientError):
            kind = f"{answer.status} {answer.server_type} {answer.server_message or answer}"
            if first.setdefault(kind, one.shown) != one.shown:
                cells[-2] = f"(same error as {first[kind]})"
        style = "red" if wrong or isinstance(answer, ClientError) else ""
        # A Text, never a string: what a caller or a model says is no markup.
        table.add_row(*(Text(cell) for cell in cells[: len(table.columns)]), style=style)
    out.print(table)
    if judged:
        right = sum(truth == label for truth, label in judged)
        out.print(f"{right} of {len(judged)} right ({right / len(judged):.1%})")


def _cells(said: Said) -> list[str]:
    """What is predicted, and how surely."""
    if isinstance(said, ClientError):
        return [str(said), ""]
    if is_class(said):
        return [said["label"] or "(not sure)", f"{said['probability']:.1%}"]
    value = said.value
    if isinstance(value, dict) and isinstance(value.get("prediction"), int | float):
        return [f"{value['prediction']:.6g} {value.get('units', '')}".strip(), ""]
    return [str(value), ""]


def _print_texts(given: Sequence[Given], said: Sequence[Said]) -> None:
    """Each prompt with what follows it."""
    for one, answer in zip(given, said, strict=True):
        if isinstance(answer, ClientError):
            out.print(Text(f"{one.shown}: {answer}", style="red"))
        elif is_text(answer):
            out.print(Text.assemble((one.prompt, "dim"), (answer["text"], "bold")))
            tokens = answer.value.get("completion_tokens")
            out.print(Text(f"({tokens} tokens, {answer['finish_reason']})\n", style="dim"))
        else:
            out.print(Text(f"{one.shown}: {answer.value}"))


def _draw(
    file: Path,
    model: str,
    given: Sequence[Given],
    actual: Sequence[str | None],
    said: Sequence[Said],
) -> None:
    with err.status("Drawing"):
        from PIL import Image

        from vestal.training.plots import Seen, draw_grid
        from vestal_handlers.errors import InputError
        from vestal_handlers.images.decoding import read_image

        seen = []
        for one, truth, answer in zip(given, actual, said, strict=True):
            if one.file is None or not is_class(answer):
                continue
            try:
                pixels = read_image(one.file.read_bytes(), "RGB")
            except InputError:
                continue  # a text, or an image as numbers in JSON
            image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            seen.append(Seen(image, truth, answer["label"] or "(not sure)"))
        if not seen:
            raise UsageError(f"nothing to draw: no image got a class from {model}")
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_grid(seen, file)
