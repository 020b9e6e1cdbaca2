"""`vestal predict`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import typer
from rich.table import Table
from rich.text import Text

from vestal.cli.arguments import RequestTimeout, ServedModel, Texts, Url, Version
from vestal.cli.inputs import CliInput, fitted, gather
from vestal.cli.labels import actual_labels
from vestal.cli.output import Json, count_of, err, out, print_json
from vestal.cli.served import not_served, served_model
from vestal.cli.waiting import wait_for_server
from vestal.client import Client, ClientError, ConnectionFailed, NotFound, Prediction
from vestal.client.encoding import looks_like_path
from vestal.client.inference import is_refusal
from vestal.errors import UsageError

Outcome = Prediction | ClientError
DESCRIBE_SECONDS = 5.0


def predict(
    model: ServedModel,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT",
            help="Files or folders; each row of a table (.csv, .jsonl) is an input.",
        ),
    ] = None,
    text: Texts = None,
    row: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW", help="Row to send, such as bmi=25,bp=90,s5=4.5; repeat for several."
        ),
    ] = None,
    version: Version = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Image file to create: the images with true and predicted labels."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV file of true labels with lines FILE,LABEL. Default: the name of each file's "
            "folder.",
        ),
    ] = None,
    timeout: RequestTimeout = 30.0,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send inputs to a served model and print its predictions."""
    sent = gather(inputs or [], text or [], row or [])
    if url is None:
        wait_for_server(timeout)
    with Client(url, timeout=timeout) as client:
        served = served_model(client, model, version)
        name, version = served
        schema = input_schema(client, name, version) if any(one.table for one in sent) else {}
        sent = fitted(sent, schema)
        outcomes = client.predict_many(name, [one.value for one in sent], version=version)
        first = outcomes[0]
        if isinstance(first, NotFound):  # one error, not one for every input
            raise not_served(client, served, first)
        if isinstance(first, ConnectionFailed):
            raise first
        _advise(sent, outcomes)
        known = () if truth else known_labels(client, name, version, outcomes)
    actual = actual_labels([one.file or Path() for one in sent], truth, known)
    if as_json:
        print_json([_fact(*each) for each in zip(sent, actual, outcomes, strict=True)])
    else:
        _print(sent, actual, outcomes)
    if plot:
        _draw(plot, name, sent, actual, outcomes)
        err.print(f"Plot: {plot}")
    failed = sum(isinstance(one, ClientError) for one in outcomes)
    if failed:
        err.print(f"{failed} of {count_of(len(outcomes), 'request')} failed")
        raise typer.Exit(1)


def is_class(outcome: Outcome) -> TypeGuard[Prediction]:
    """Whether it is a prediction of Vestal's classifiers."""
    return _has_fields(outcome, "label", "probability", "top")


def is_text(outcome: Outcome) -> TypeGuard[Prediction]:
    """Whether it is a text from Vestal's text generator."""
    return _has_fields(outcome, "text", "finish_reason")


def _has_fields(outcome: Outcome, *names: str) -> bool:
    if isinstance(outcome, ClientError) or not isinstance(outcome.value, dict):
        return False
    return outcome.value.keys() >= set(names)


def known_labels(
    client: Client, model: str, version: str | None, outcomes: Sequence[Outcome]
) -> Collection[str]:
    """The labels in a classifier's description; without a description, those it predicted.

    With the predicted labels alone, a true label that was never predicted would be ignored.
    """
    if not any(is_class(outcome) for outcome in outcomes):
        return ()
    labels = _described(client, model, version).get("labels")
    if isinstance(labels, list):
        return {str(label) for label in labels}
    return {top["label"] for outcome in outcomes if is_class(outcome) for top in outcome["top"]}


def input_schema(client: Client, model: str, version: str | None) -> Mapping[str, Any]:
    """JSON Schema of a model's input; empty if its handler does not describe it."""
    schema = _described(client, model, version).get("input")
    return schema if isinstance(schema, dict) else {}


def _described(client: Client, model: str, version: str | None) -> Mapping[str, Any]:
    """The handler's description; empty without one, or if the management API is unreachable."""
    try:
        found = client.describe(model, version, customized=True, timeout=DESCRIBE_SECONDS)
    except ClientError:
        return {}
    return found.customized if isinstance(found.customized, dict) else {}


def _advise(inputs: Sequence[CliInput], outcomes: Sequence[Outcome]) -> None:
    """Replace a hint for users of the client by one for users of the command line."""
    for one, error in zip(inputs, outcomes, strict=True):
        if isinstance(error, ClientError) and is_refusal(error) and looks_like_path(one.value):
            error.hint = "The input was sent as text. To send a file, pass its path without --text"


def _fact(sent: CliInput, actual: str | None, outcome: Outcome) -> dict[str, Any]:
    fact: dict[str, Any] = {**sent.fact, "actual": actual}
    request = {"request_id": outcome.request_id}
    if isinstance(outcome, ClientError):
        error = {"type": outcome.server_type or type(outcome).__name__, "message": str(outcome)}
        return {**fact, "error": {**error, "status": outcome.status, **request}}
    return {**fact, "answer": outcome.value, "version": outcome.version, **request}


def _print(
    inputs: Sequence[CliInput], actual: Sequence[str | None], outcomes: Sequence[Outcome]
) -> None:
    if any(is_text(one) for one in outcomes):
        _print_texts(inputs, outcomes)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("input", overflow="fold")
    pairs = [(t, o["label"]) for t, o in zip(actual, outcomes, strict=True) if t and is_class(o)]
    if pairs:
        table.add_column("actual", overflow="fold")
    table.add_column("predicted", overflow="fold")
    if any(is_class(one) for one in outcomes):
        table.add_column("probability", justify="right")
    first: dict[str, str] = {}
    for one, truth, outcome in zip(inputs, actual, outcomes, strict=True):
        wrong = is_class(outcome) and truth not in (None, outcome["label"])
        cells = [one.shown, *([truth or ""] if pairs else []), *_cells(outcome)]
        if isinstance(outcome, ClientError):
            kind = f"{outcome.status} {outcome.server_type} {outcome.server_message or outcome}"
            if first.setdefault(kind, one.shown) != one.shown:
                cells[-2] = f"(same error as {first[kind]})"
        style = "red" if wrong or isinstance(outcome, ClientError) else ""
        # Text, because rich would interpret markup in a string from a caller or a model.
        table.add_row(*(Text(cell) for cell in cells[: len(table.columns)]), style=style)
    out.print(table)
    if pairs:
        correct = sum(truth == label for truth, label in pairs)
        out.print(f"{correct} of {len(pairs)} correct ({correct / len(pairs):.1%})")


def _cells(outcome: Outcome) -> list[str]:
    """The prediction or error, and the probability."""
    if isinstance(outcome, ClientError):
        return [str(outcome), ""]
    if is_class(outcome):
        return [outcome["label"] or "(undecided)", f"{outcome['probability']:.1%}"]
    value = outcome.value
    if isinstance(value, dict) and isinstance(value.get("prediction"), int | float):
        return [f"{value['prediction']:.6g} {value.get('units', '')}".strip(), ""]
    return [str(value), ""]


def _print_texts(inputs: Sequence[CliInput], outcomes: Sequence[Outcome]) -> None:
    """Print each prompt, followed by the generated text."""
    for one, outcome in zip(inputs, outcomes, strict=True):
        if isinstance(outcome, ClientError):
            out.print(Text(f"{one.shown}: {outcome}", style="red"))
        elif is_text(outcome):
            out.print(Text.assemble((one.prompt, "dim"), (outcome["text"], "bold")))
            tokens = count_of(outcome.value.get("completion_tokens") or 0, "token")
            out.print(Text(f"({tokens}, {outcome['finish_reason']})\n", style="dim"))
        else:
            out.print(Text(f"{one.shown}: {outcome.value}"))


def _draw(
    file: Path,
    model: str,
    inputs: Sequence[CliInput],
    actual: Sequence[str | None],
    outcomes: Sequence[Outcome],
) -> None:
    with err.status("Drawing the plot"):
        from PIL import Image

        from vestal.training.plots import PredictedImage, draw_grid
        from vestal_handlers.errors import InputError
        from vestal_handlers.images.decoding import read_image

        images = []
        for one, truth, outcome in zip(inputs, actual, outcomes, strict=True):
            if one.file is None or not is_class(outcome):
                continue
            try:
                pixels = read_image(one.file.read_bytes(), "RGB")
            except InputError:
                continue  # not an image file
            image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            images.append(PredictedImage(image, truth, outcome["label"] or "(undecided)"))
        if not images:
            raise UsageError(f"--plot: {model} classified none of the inputs as an image")
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_grid(images, file)
