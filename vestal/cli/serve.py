"""`vestal serve`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vestal.cli.changing import SERVING_FILE, refuse_problems, source_of
from vestal.cli.output import Json, err, print_json, print_warning
from vestal.cli.ready_output import print_ready, sample_of
from vestal.errors import UsageError

if TYPE_CHECKING:
    from vestal.fleet.server import Server
    from vestal.mar.sample import Sample
    from vestal.project import Project, ReadyFile


def serve(
    more: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]ARCHIVE",
            help="Archives in the model store: mnist-1.0, or mnist if there is one version. NAME= "
            "serves it under another name. The first version of a model is its default. Default: "
            "what ran before, if a command has changed it; else serving.yaml; else the newest "
            "version of every model.",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]ARCHIVE",
            help="Archive to serve, as in the arguments; repeat for several.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", help="File like serving.yaml to apply at the start."),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Apply serving.yaml (or the file of --file) whenever it changes."
        ),
    ] = False,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach",
            "-d",
            help="Return when the server is ready, and let it run in the background. Its output "
            "goes to .vestal/logs/serve.log; `vestal stop` stops it.",
        ),
    ] = False,
    model_store: Annotated[
        Path | None,
        typer.Option(help="Folder with the archives. Default: as in config.properties."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port for inference; management, metrics and the keeper use the next three. "
            "0 picks free ports. Default: as in config.properties."
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
    """Serve models with TorchServe until Ctrl-C or `vestal stop`."""
    from vestal.project import Project

    project = Project.here()
    archives = [*(models or []), *(more or [])]
    _check_options(project, archives, file, watch)
    if detach:
        from vestal.cli.detach import start_detached

        options = {
            "--file": file,
            "--model-store": model_store,
            "--port": port,
            "--ready-file": ready_file,
            "--timeout": timeout,
            "--drain": drain,
        }
        arguments = [f"{name}={value}" for name, value in options.items() if value is not None]
        arguments += [*(["--watch"] if watch else []), *(["--strict"] if strict else []), *archives]
        ready = start_detached(project, arguments)
        _print_ready(ready, project, as_json, sample_of(ready), "`vestal stop` stops the server.")
        return
    from vestal.fleet.keeper import StopRequested
    from vestal.fleet.server import Server

    _on_signal(_stop)
    try:
        with Server(
            project,
            archives,
            model_store=model_store,
            port=port,
            ready_file=ready_file,
            serving_file=file,
            timeout=timeout,
            strict=strict,
            on_event=_print_event,
        ) as server:
            if drain:
                _on_signal(_drain)
            try:
                end = "Ctrl-C or `vestal stop` stops the server."
                _print_ready(server.ready, project, as_json, server.sample(), end)
                sys.stdout.flush()
                with _watching(server, project, file) if watch else nullcontext():
                    server.wait()
            except KeyboardInterrupt:
                pass
            if drain:
                server.drain(drain)
    except (KeyboardInterrupt, StopRequested):
        pass  # during the start, or a second Ctrl-C
    _print_event("Stopped")


def _print_ready(
    ready: ReadyFile, project: Project, as_json: bool, sample: Sample | None, how_to_stop: str
) -> None:
    if as_json:
        print_json(asdict(ready))
    else:
        print_ready(ready, project.root, sample, how_to_stop)


def _print_event(text: str) -> None:
    err.print(text, style="dim", markup=False, soft_wrap=True)


def _check_options(
    project: Project, archives: Sequence[str], file: Path | None, watch: bool
) -> None:
    if archives and (file is not None or watch):
        option = "--watch" if file is None else f"--file {file}"
        raise UsageError(f"{option} cannot be combined with archives; omit one of them")
    if file is not None and not file.is_file():
        raise UsageError(f"--file {file}: there is no such file")
    if watch and file is None and not (project.root / SERVING_FILE).is_file():
        raise UsageError(f"--watch: there is no {SERVING_FILE} in {project.root}")


@contextmanager
def _watching(server: Server, project: Project, file: Path | None) -> Iterator[None]:
    """Apply the serving file whenever it changes."""
    from vestal.fleet.resolving import resolve
    from vestal.fleet.serving_file import load
    from vestal.fleet.watching import FileWatcher

    keeper, store = server.keeper, Path(server.ready.model_store or project.model_store)

    def apply(path: Path) -> None:
        content = load(path)
        desired = resolve(content, store, project.root)
        refuse_problems(keeper.plan(desired))
        keeper.apply(desired, source_of("vestal serve --watch", content))
        _print_event(f"{path} has changed; applying it")

    applied = next((each.source.sha256 for each in keeper.revisions() if each.source.sha256), None)
    path = file or project.path(SERVING_FILE)
    watcher = FileWatcher(path, applied, apply, print_warning)
    watcher.start()
    try:
        yield
    finally:
        watcher.stop()


def _on_signal(handler: Callable[..., None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _stop(*_: object) -> None:
    _on_signal(signal.SIG_IGN)  # another one would interrupt the cleanup
    raise KeyboardInterrupt


def _drain(*_: object) -> None:
    _on_signal(_stop)
    raise KeyboardInterrupt
