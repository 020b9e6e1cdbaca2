"""`vestal diff`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from vestal.cli.arguments import ARCHIVE_HELP
from vestal.cli.output import Json, count_of, out, print_json
from vestal.cli.progress import new_bar

if TYPE_CHECKING:
    from vestal.archive.comparing import Comparison
    from vestal.archive.diff import Change, Changes
    from vestal.inprocess.frontend import RawRequest

SHOWN = 20  # differing inputs that are printed; --json lists all
_SECTIONS = {
    "facts": "metadata",
    "config": "model-config.yaml",
    "packages": "packages",
    "training": "training",
}


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help=ARCHIVE_HELP)],
    after: Annotated[
        str, typer.Argument(metavar="B", help="Archive to compare with A, named in the same way.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="File or folder of inputs to predict with both; repeat for several. "
            "Default: the samples in the archives.",
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0, help="Largest accepted difference of two numbers, relative for numbers above 1."
        ),
    ] = 1e-4,
    timing: Annotated[
        bool,
        typer.Option(
            "--timing", help="Also measure the latency, with at least 20 predictions per archive."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare two archives and their predictions; exit code 1 if a prediction differs."""
    from vestal.archive.comparing import compare_predictions
    from vestal.archive.diff import compare
    from vestal.cli.run_inputs import RunInputs, requests_of
    from vestal.inprocess.frontend import Frontend
    from vestal.mar.store import find_archive
    from vestal.mar.unpacking import unpack_archive
    from vestal.project import Project

    project = Project.here()
    read = RunInputs(inputs or []).read()
    archives = [find_archive(project, name) for name in (before, after)]
    with ExitStack() as opened:
        folders = [opened.enter_context(unpack_archive(archive)) for archive in archives]
        changes = compare(*folders)
        sent = requests_of(read, lambda: _schema(folders[0])) or _samples(folders)
        answers = None
        if sent:
            names = (archives[0].name, archives[1].name)
            with new_bar() as bar:
                task = bar.add_task("Loading both archives", total=None)

                def show(what: str, done: int, total: int) -> None:
                    bar.update(task, description=what, completed=done, total=total)

                answers = compare_predictions(
                    folders[0],
                    folders[1],
                    sent,
                    Frontend.of(project),
                    names,
                    tolerance,
                    timed=timing,
                    progress=show,
                )
    if as_json:
        print_json(_facts(archives, changes, answers))
    else:
        _show(changes, answers)
    if answers and answers.different:
        raise typer.Exit(1)


def _schema(folder: Path) -> Mapping[str, Any]:
    """JSON Schema of the first archive's input; empty if its handler describes none."""
    from vestal.batch.model import description_of
    from vestal.inprocess import LoadedArchive

    with LoadedArchive(folder, batch_size=1) as loaded:
        schema: Mapping[str, Any] = description_of(loaded).get("input", {})
        return schema


def _samples(folders: list[Path]) -> list[RawRequest]:
    """The samples in the archives, without duplicates."""
    from vestal.inprocess.frontend import RawRequest
    from vestal.mar.sample import FOLDER, read_sample

    samples = [sample for folder in folders if (sample := read_sample(folder)) is not None]
    named = {
        one.input: RawRequest(f"{FOLDER}/{one.name}", one.input, one.content_type)
        for one in samples
    }
    return list(named.values())


def _facts(archives: list[Path], changes: Changes, answers: Comparison | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"archives": [str(each) for each in archives]}
    facts["changes"] = asdict(changes)
    if answers is None:
        return {**facts, "answers": None}
    return {
        **facts,
        "answers": {
            "inputs": len(answers.pairs),
            "different": len(answers.different),
            "statuses": answers.statuses,
            "labels": answers.labels,
            "texts": answers.texts,
            "largest_probability_difference": answers.probability,
            "largest_value_difference": answers.value,
            "p50_seconds": [answers.before_p50, answers.after_p50],
            "differences": [
                {"input": pair.name, "difference": pair.difference} for pair in answers.different
            ],
        },
    }


def _show(changes: Changes, answers: Comparison | None) -> None:
    if not changes:
        out.print("Same content")
    if changes.members:
        table = Table("file", box=None, pad_edge=False)
        for side in ("A, bytes", "B, bytes"):
            table.add_column(side, justify="right")
        for member in changes.members:
            sizes = [f"{n:,}" if n is not None else "-" for n in (member.before, member.after)]
            table.add_row(Text(member.name), *sizes)
        out.print(table)
    for name, title in _SECTIONS.items():
        found: list[Change] = getattr(changes, name)
        if found:
            table = Table(title, "A", "B", box=None, pad_edge=False)
            for change in found:
                table.add_row(
                    *(Text(_cell(v)) for v in (change.where, change.before, change.after))
                )
            out.print(table)
    if answers is None:
        out.print("Predictions not compared: neither archive has a sample; pass --inputs")
        return
    _show_answers(answers)


def _show_answers(answers: Comparison) -> None:
    total, different = len(answers.pairs), answers.different
    for pair in different[:SHOWN]:
        out.print(Text.assemble((pair.name, "bold"), f"  {pair.difference}"), soft_wrap=True)
    if len(different) > SHOWN:
        out.print(f"... and {len(different) - SHOWN} more (--json lists all)")
    style = "bold red" if different else "bold green"
    verb = "differs" if 1 in (len(different), total) else "differ"
    out.print(Text(f"{len(different)} of {count_of(total, 'prediction')} {verb}", style=style))
    counts = {"statuses": answers.statuses, "labels": answers.labels, "texts": answers.texts}
    parts = [f"{name} {count}" for name, count in counts.items() if count]
    numbers = {"probability": answers.probability, "value": answers.value}
    parts += [f"largest {k} difference {v:.2g}" for k, v in numbers.items() if v is not None]
    if parts:
        out.print(", ".join(parts))
    old, new = answers.before_p50, answers.after_p50
    if old is not None and new is not None:
        out.print(
            f"Latency p50: A {old * 1e3:.2f} ms, B {new * 1e3:.2f} ms "
            f"({new / old:.2f} times that of A; measured alternately, one request at a time)",
            soft_wrap=True,
        )


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)
