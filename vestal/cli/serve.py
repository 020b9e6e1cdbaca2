"""`vestal serve`."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vestal.cli.output import Json, err, out, print_json

if TYPE_CHECKING:
    from vestal.mar.sample import Sample
    from vestal.project import ReadyFile

SHORT = 200  # characters of a sample that is printed completely


def serve(
    more: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]ARCHIVE",
            help="Archives in the model store: mnist-1.0, or mnist if there is one version. NAME= "
            "serves it under another name. The first version of a model is its default. Default: "
            "the newest version of every model.",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]ARCHIVE",
            help="Archive to serve, as in the arguments; repeat for several.",
        ),
    ] = None,
    model_store: Annotated[
        Path | None,
        typer.Option(help="Folder with the archives. Default: as in config.properties."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port for inference; management and metrics use the next two. 0 picks free ports. "
            "Default: as in config.properties."
        ),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="File to write when ready, in addition to .vestal/ready.json."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Time limit for every model to become ready, in seconds.")
    ] = 120.0,
    drain: Annotated[
        float,
        typer.Option(
            min=0,
            help="Time limit for requests in progress when the server is stopped, in seconds. "
            "0 stops at once.",
        ),
    ] = 30.0,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Fail if an archive cannot be served, instead of serving the others."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve models with TorchServe until Ctrl-C."""
    from vestal.fleet.server import Server
    from vestal.project import Project

    _on_signal(_stop)
    project = Project.here()
    try:
        with Server(
            project,
            [*(models or []), *(more or [])],
            model_store=model_store,
            port=port,
            ready_file=ready_file,
            timeout=timeout,
            strict=strict,
            on_event=lambda event: err.print(event, style="dim", markup=False, soft_wrap=True),
        ) as server:
            if drain:
                _on_signal(_drain)
            try:
                if as_json:
                    print_json(asdict(server.ready))
                else:
                    _announce(server.ready, project.root, server.sample())
                sys.stdout.flush()
                server.wait()  # until `vestal stop`
            except KeyboardInterrupt:
                pass
            if drain:
                server.drain(drain)
    except KeyboardInterrupt:
        pass  # during the start, or a second Ctrl-C
    err.print("Stopped", style="dim")


def _on_signal(handler: Callable[..., None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _stop(*_: object) -> None:
    _on_signal(signal.SIG_IGN)  # another one would interrupt the cleanup
    raise KeyboardInterrupt


def _drain(*_: object) -> None:
    _on_signal(_stop)
    raise KeyboardInterrupt


def _announce(ready: ReadyFile, root: Path, sample: Sample | None) -> None:
    def say(text: str = "") -> None:
        out.print(text, markup=False, soft_wrap=True)

    served = [
        f"{model['name']} {model['version']}{' (default)' if model['default'] else ''}"
        for model in ready.models
    ]
    name = ready.models[0]["name"]
    say(f"Ready: {', '.join(served)}")
    say(f"  inference   {ready.inference}")
    say(f"  management  {ready.management}")
    say(f"  metrics     {ready.metrics}")
    if ready.key_file is not None:
        say(f"  health      {ready.inference}/api-description (no token; /ping answers 400)")
    say("Send a request from another terminal in this folder:")
    ours, for_curl = _inputs(sample)
    say(f"  vestal predict {name} {ours}")
    say(f"  curl {_authorization(ready, root)}{for_curl} {ready.inference}/predictions/{name}")
    say("Ctrl-C stops the server.")


def _inputs(sample: Sample | None) -> tuple[str, str]:
    """Arguments for `vestal predict NAME` and `curl`: the model's own sample, if it is short."""
    kind = sample.content_type if sample else ""
    if kind.startswith("image/"):
        return "IMAGE", "-T IMAGE"
    file = f"FILE{Path(sample.name).suffix}" if sample else "FILE"
    if sample is None or not kind.startswith(("text/", "application/json")):
        return file, f"-T {file}"
    text = sample.input.decode("utf-8", "replace").strip()
    header = f"-H {shlex.quote(f'Content-Type: {kind}')}"
    if len(text) > SHORT:
        return "--text TEXT" if kind.startswith("text/") else file, f"{header} -T {file}"
    body = f"{header} --data-raw {shlex.quote(text)}"
    if kind.startswith("text/"):
        return f"--text {shlex.quote(text)}", body
    try:
        row = json.loads(text)
    except ValueError:
        row = None
    if isinstance(row, dict) and row and all(map(_is_number, row.values())):
        return f"--row {','.join(f'{name}={value}' for name, value in row.items())}", body
    return file, body


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _authorization(ready: ReadyFile, root: Path) -> str:
    """A header that reads the token from its file: it changes at every start."""
    if ready.key_file is None:
        return ""
    key_file = Path(ready.key_file)
    if key_file.is_relative_to(root):
        key_file = key_file.relative_to(root)
    read = f"import json; print(json.load(open('{key_file}'))['inference']['key'])"
    return f'-H "Authorization: Bearer $(python3 -c "{read}")" '
