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

from vestal.cli.arguments import Engine, ModelOrArchive, Precision, Texts, Version, Weights
from vestal.cli.output import Json, count_of, err, out, print_json
from vestal.errors import UsageError, VestalError

if TYPE_CHECKING:
    from vestal.archive.runnable import Runnable
    from vestal.cli.run_inputs import RunInputs
    from vestal.inprocess import LoadedArchive
    from vestal.inprocess.frontend import Batch, Frontend, RawRequest
    from vestal.inprocess.profiling import Operator


def run(
    target: ModelOrArchive,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Files or folders; each row of a table (.csv, .jsonl) is an input; - is stdin.",
        ),
    ] = None,
    text: Texts = None,
    body: Annotated[
        list[str] | None,
        typer.Option(metavar="JSON", help="JSON to send as a request's body; repeat for several."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME: VALUE'",
            help="HTTP header of every request; Content-Type replaces the one for the file's "
            "suffix. Repeat for several.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of inputs per batch.")] = 1,
    explain: Annotated[
        bool, typer.Option("--explain", help="Request explanations instead of predictions.")
    ] = False,
    describe: Annotated[
        bool, typer.Option("--describe", help="Print the handler's description of the model.")
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Repeat the run under torch's profiler and write a trace file to this folder.",
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Repeat when the source, the archive or an input changes, until Ctrl-C."
        ),
    ] = False,
    version: Version = None,
    engine: Engine = None,
    precision: Precision = None,
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Run an archive's handler in this process, without a server; breakpoint() works in it.

    --weights, --engine and --precision are for models that are not packed yet.
    """
    from vestal.archive.runnable import find_runnable
    from vestal.cli.run_inputs import RunInputs
    from vestal.project import Project

    if not (inputs or text or body or describe):
        raise UsageError("no input: pass files, --text, --body, - for stdin, or --describe")
    found = find_runnable(
        Project.here(), target, version=version, weights=weights, engine=engine, precision=precision
    )
    sources = RunInputs(inputs or [], text or [], body or [], header or [])
    command = _Command(found, sources, batch_size, explain, describe, profile, as_json)
    good = command.until_interrupted() if watch else command.once()
    if not good:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Command:
    target: Runnable
    inputs: RunInputs
    batch_size: int
    explain: bool
    describe: bool
    profile: bool
    as_json: bool

    def once(self, *, reload: bool = False) -> bool:
        """Load, predict and print; False if a response is an error."""
        from vestal.batch.model import description_of
        from vestal.cli.run_inputs import requests_of
        from vestal.inprocess.frontend import Frontend

        read = self.inputs.read()
        frontend = Frontend.of(self.target.project)
        # No spinner: it would overwrite the prompt of a debugger.
        err.print(Text(f"Loading {self.target.name}", style="dim"))
        start = time.perf_counter()
        with self.target.loaded(self.batch_size, decode=frontend.decode, reload=reload) as loaded:
            seconds = time.perf_counter() - start
            facts: dict[str, Any] = {"name": loaded.name, "version": loaded.version}
            facts["load_seconds"] = seconds
            err.print(
                Text(f"Loaded {loaded.name} {loaded.version} in {seconds:.1f} s", style="dim")
            )
            if self.describe:
                facts["description"] = loaded.describe()
            sent = requests_of(read, lambda: description_of(loaded).get("input", {}))
            batches = frontend.predict(loaded, sent, self.batch_size, explain=self.explain)
            operators = self._profiled(loaded, frontend, sent, facts) if self.profile else []
        self._show(facts, batches, operators)
        return all(answer.status < 400 for batch in batches for answer in batch.responses)

    def until_interrupted(self) -> bool:
        """Run once, and again after every change of a file, until Ctrl-C."""
        from vestal.archive.watching import state_of, wait_for_change

        def places() -> list[Path]:
            return [*self.target.places(), *self.inputs.places]

        good = True
        try:
            while True:
                before = state_of(places())
                try:
                    good = self.once(reload=True)
                except VestalError as error:  # often an unfinished edit
                    good = False
                    err.print(Text(f"vestal: {error}", style="red"))
                err.print(
                    Text(f"Watching {count_of(len(before), 'file')}; Ctrl-C stops", style="dim")
                )
                changed = wait_for_change(places, before)
                names = ", ".join(file.name for file in changed[:5])
                err.print(Text(f"Changed: {names}", style="bold"))
        except KeyboardInterrupt:
            err.print("Stopped")
        return good

    def _profiled(
        self,
        loaded: LoadedArchive,
        frontend: Frontend,
        sent: list[RawRequest],
        facts: dict[str, Any],
    ) -> list[Operator]:
        from vestal.inprocess.profiling import profile

        # The names in a manifest must not lead out of this folder.
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{loaded.name}-{loaded.version}")
        trace = Path(f"{name.lstrip('.')}-trace.json").absolute()
        facts["trace"] = str(trace)
        return profile(
            loaded,
            lambda: frontend.predict(loaded, sent, self.batch_size, explain=self.explain),
            trace,
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
