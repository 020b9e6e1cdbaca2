"""`vestal logs`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from vestal.cli.output import Json, out
from vestal.errors import UsageError, VestalError

if TYPE_CHECKING:
    from vestal.server.logs import WorkerLine


def logs(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Model or version (mnist-1.0) whose workers' output to print. Default: the log of "
            "TorchServe itself.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines until Ctrl-C.")
    ] = False,
    number: Annotated[int, typer.Option("-n", min=0, help="Number of lines to print.")] = 100,
    as_json: Json = False,
) -> None:
    """Print the output of a model's workers, or the server's log."""
    from vestal.project import Project
    from vestal.server.log_files import last_lines, new_lines
    from vestal.server.logs import Logs

    project = Project.here()
    files = Logs(project.logs, 0)
    path = files.torchserve if model is None else files.workers
    if not path.exists():
        raise VestalError(
            f"there is no log {path}: no server has run in this folder. `vestal serve` starts one"
        )
    selected = _Selection(model, _keys_of(model)) if model is not None else None

    def show(line: str) -> None:
        if selected is None or selected.has(line):
            _print(line, as_json, by_worker=selected is not None)

    following = new_lines(path) if follow else iter(())
    try:
        is_selected = selected.has if selected else lambda _: True
        lines = last_lines(path, number, is_selected)
        if selected is not None and not lines and number and not follow:
            raise _no_output(selected, last_lines(path, 1_000_000, lambda _: True))
        for line in lines:
            show(line)
        for line in following:
            show(line)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


class _Selection:
    """The versions whose lines are printed: all of a model, or one (`mnist-1.0`)."""

    def __init__(self, name: str, served: set[tuple[str, str]]) -> None:
        self.name = name
        self._served = served

    def has(self, line: str) -> bool:
        parsed = _parse(line)
        return parsed is not None and self._has_key(parsed.key)

    def _has_key(self, key: str) -> bool:
        if key.startswith(f"{self.name}_"):
            version = key.removeprefix(f"{self.name}_")
            # `a_b_1.0` is version 1.0 of model a_b, unless it is known as version b_1.0 of a.
            if "_" not in version or (self.name, version) in self._served:
                return True
        dashes = [index for index, character in enumerate(self.name) if character == "-"]
        return any(key == f"{self.name[:i]}_{self.name[i + 1 :]}" for i in dashes)


def _keys_of(model: str) -> set[tuple[str, str]]:
    """The served versions; empty without a server, whose logs can be read as well."""
    from vestal.client.settings import read_ready_file
    from vestal.project import Project

    try:
        ready = read_ready_file(Project.here().ready_file)
    except VestalError:
        return set()
    return {(str(each["name"]), str(each["version"])) for each in ready.models}


def _no_output(selected: _Selection, lines: Iterable[str]) -> VestalError:
    parsed = filter(None, map(_parse, lines))
    names = sorted({line.key.rpartition("_")[0] for line in parsed})
    known = f"the log has lines of {', '.join(names)}" if names else "the log is empty"
    return UsageError(f"no worker of {selected.name} has printed anything; {known}")


def _print(line: str, as_json: bool, *, by_worker: bool) -> None:
    parsed = _parse(line) if by_worker else None
    if as_json:
        print(json.dumps(parsed._asdict() if parsed else {"text": line}, ensure_ascii=False))
        return
    if parsed is None:
        out.print(Text(line), soft_wrap=True)
        return
    place = f"{parsed.time.partition('T')[2] or parsed.time} {parsed.key} {parsed.worker}  "
    out.print(Text.assemble((place, "dim"), parsed.text), soft_wrap=True)


def _parse(line: str) -> WorkerLine | None:
    from vestal.server.logs import WorkerLine  # needs the extra `serve`

    return WorkerLine.parse(line)
