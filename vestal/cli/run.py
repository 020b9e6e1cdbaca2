"""`vestal run`."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from vestal.cli.output import Json, count_of, err, out, print_json
from vestal.errors import UsageError, VestalError

if TYPE_CHECKING:
    from vestal.archive.target import Target
    from vestal.cli.run_inputs import Given
    from vestal.inprocess import LoadedArchive
    from vestal.inprocess.frontend import Batch, Frontend, Sent
    from vestal.inprocess.profiling import Operator


def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="ARCHIVE|MODEL",
            help="A .mar, a .tar.gz, an unpacked folder, an archive of the model store by its "
            "file name; or a model, whose newest training is then run as it would be packed.",
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INPUT]...",
            help="Files or folders; of a table (.csv, .jsonl) each row; - is stdin.",
        ),
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text as a body.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="JSON as a body.")] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME: VALUE'",
            help="On every request; a Content-Type replaces the one that a file's name says.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests that the handler gets at once.")] = 1,
    explain: Annotated[
        bool, typer.Option("--explain", help="Ask why, as /explanations does.")
    ] = False,
    describe: Annotated[
        bool, typer.Option("--describe", help="Print what the handler says of itself.")
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="Run once more under torch's profiler; writes a trace file here."
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Again whenever source, archive or input changes; Ctrl-C."),
    ] = False,
    version: Annotated[
        str | None, typer.Option(help="Of a packed model, of which there are several.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="As of vestal pack; of a model that is not packed.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="As of vestal pack; likewise.")] = None,
    weights: Annotated[str | None, typer.Option(help="As of vestal pack; likewise.")] = None,
    as_json: Json = False,
) -> None:
    """Ask an archive's handler in this process: no server, no Java; a breakpoint() just works."""
    from vestal.archive.target import find_target
    from vestal.cli.run_inputs import Given
    from vestal.project import Project

    given = Given(inputs or [], text or [], data or [], header or [])
    if not (inputs or text or data or describe):
        raise UsageError("nothing to ask: give files, --text, --data, - for stdin, or --describe")
    said = {"version": version, "weights": weights, "engine": engine, "precision": precision}
    command = _Command(
        find_target(Project.here(), target, **said),
        given,
        batch,
        explain,
        describe,
        profile,
        as_json,
    )
    good = command.again_and_again() if watch else command.once()
    if not good:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Command:
    target: Target
    given: Given
    batch: int
    explain: bool
    describe: bool
    profile: bool
    as_json: bool

    def once(self, *, again: bool = False) -> bool:
        """Loads, asks and shows; False where an answer is an error."""
        from vestal.batch.bodies import described
        from vestal.cli.run_inputs import requests_of
        from vestal.inprocess.frontend import Frontend

        read = self.given.read()
        frontend = Frontend.of(self.target.project)
        # No spinner: it would write over the prompt of a debugger.
        err.print(Text(f"loading {self.target.name}", style="dim"))
        start = time.perf_counter()
        with self.target.loaded(self.batch, decode=frontend.decode, again=again) as loaded:
            seconds = time.perf_counter() - start
            facts: dict[str, Any] = {"name": loaded.name, "version": loaded.version}
            facts["load_seconds"] = seconds
            err.print(
                Text(f"{loaded.name} {loaded.version} loaded in {seconds:.1f} s", style="dim")
            )
            if self.describe:
                facts["description"] = loaded.describe()
            sent = requests_of(read, lambda: described(loaded).get("input", {}))
            batches = frontend.ask(loaded, sent, self.batch, explain=self.explain)
            operators = self._profiled(loaded, frontend, sent, facts) if self.profile else []
        self._show(facts, batches, operators)
        return all(answer.status < 400 for batch in batches for answer in batch.answers)

    def again_and_again(self) -> bool:
        """Once, and then whenever a file changes, until Ctrl-C."""
        from vestal.archive.watching import state_of, wait_for_change

        def places() -> list[Path]:
            return [*self.target.places(), *self.given.places]

        good = True
        try:
            while True:
                before = state_of(places())
                try:
                    good = self.once(again=True)
                except VestalError as error:  # half of an edit: the next one mends it
                    good = False
                    err.print(Text(f"vestal: {error}", style="red"))
                err.print(
                    Text(f"watching {count_of(len(before), 'file')}; Ctrl-C ends", style="dim")
                )
                changed = wait_for_change(places, before)
                names = ", ".join(file.name for file in changed[:5])
                err.print(Text(f"changed: {names}", style="bold"))
        except KeyboardInterrupt:
            err.print("ended")
        return good

    def _profiled(
        self, loaded: LoadedArchive, frontend: Frontend, sent: list[Sent], facts: dict[str, Any]
    ) -> list[Operator]:
        from vestal.inprocess.profiling import profile

        # What a manifest says is no path: the trace stays in this folder.
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{loaded.name}-{loaded.version}")
        trace = Path(f"{name.lstrip('.')}-trace.json").absolute()
        facts["trace"] = str(trace)
        return profile(
            loaded, lambda: frontend.ask(loaded, sent, self.batch, explain=self.explain), trace
        )

    def _show(self, facts: dict[str, Any], batches: list[Batch], operators: list[Operator]) -> None:
        from vestal.cli import run_output

        if self.as_json:
            if self.profile:
                facts["operators"] = [vars(operator) for operator in operators]
            print_json({**facts, **run_output.facts(batches)})
            return
        if self.describe:
            out.print(Text(json.dumps(facts["description"], indent=2, ensure_ascii=False)))
        run_output.show(batches)
        if self.profile:
            run_output.show_operators(operators, Path(facts["trace"]))
