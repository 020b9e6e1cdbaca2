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

from vestal.cli.output import Json, err, out, print_json

if TYPE_CHECKING:
    from vestal.archive.comparing import Comparison
    from vestal.archive.diff import Change, Changes
    from vestal.archive.frontend import Sent

SHOWN = 20  # differing inputs on the screen; --json has all
_SECTIONS = {
    "facts": "what it says of itself",
    "config": "model-config.yaml",
    "packages": "packages",
    "training": "training",
}


def diff(
    before: Annotated[
        str, typer.Argument(metavar="A", help="An archive: a path, or its name in the store.")
    ],
    after: Annotated[str, typer.Argument(metavar="B", help="The other.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            help="A file or a folder of files to ask both for; again for more. By default the "
            "samples that the two carry."
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="By how much numbers may differ, times the number if above 1."),
    ] = 1e-4,
    as_json: Json = False,
) -> None:
    """Say what is other in B than in A, and how many answers are: exit code 1 if any is."""
    from vestal.archive.comparing import compare_answers
    from vestal.archive.diff import compare
    from vestal.archive.frontend import Frontend
    from vestal.archive.unpacking import unpacked
    from vestal.batch.archives import find_archive
    from vestal.cli.run_inputs import Given, requests_of
    from vestal.project import Project

    project = Project.here()
    given = Given(inputs or [])
    read = given.read()
    archives = [find_archive(project, name) for name in (before, after)]
    with ExitStack() as opened:
        folders = [opened.enter_context(unpacked(archive)) for archive in archives]
        changes = compare(*folders)
        sent = requests_of(read, lambda: _schema(folders[0])) or _samples(folders)
        err.print(Text(f"asking both for {len(sent)} inputs", style="dim"))
        names = (archives[0].name, archives[1].name)
        frontend = Frontend.of(project)
        answers = (
            compare_answers(folders[0], folders[1], sent, frontend, names, tolerance)
            if sent
            else None
        )
    if as_json:
        print_json(_facts(archives, changes, answers))
    else:
        _show(changes, answers)
    if answers and answers.different:
        raise typer.Exit(1)


def _schema(folder: Path) -> Mapping[str, Any]:
    """The JSON Schema of what the first archive takes; empty where it describes nothing."""
    from vestal.archive.run import LoadedArchive
    from vestal.batch.bodies import described

    with LoadedArchive(folder, batch_size=1) as loaded:
        schema: Mapping[str, Any] = described(loaded).get("input", {})
        return schema


def _samples(folders: list[Path]) -> list[Sent]:
    """The samples that the archives carry, each input once."""
    from vestal.archive.frontend import Sent
    from vestal.archive.sample import FOLDER, read_sample

    samples = [sample for folder in folders if (sample := read_sample(folder)) is not None]
    named = {
        one.input: Sent(f"{FOLDER}/{one.name}", one.input, one.content_type) for one in samples
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
        out.print("the same inside")
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
                    *(Text(_said(v)) for v in (change.where, change.before, change.after))
                )
            out.print(table)
    if answers is None:
        out.print("answers not compared: neither carries a sample; give --inputs")
        return
    _show_answers(answers)


def _show_answers(answers: Comparison) -> None:
    total, different = len(answers.pairs), answers.different
    for pair in different[:SHOWN]:
        out.print(Text.assemble((pair.name, "bold"), f"  {pair.difference}"), soft_wrap=True)
    if len(different) > SHOWN:
        out.print(f"... and {len(different) - SHOWN} more (--json has them)")
    style = "bold red" if different else "bold green"
    out.print(Text(f"{len(different)} of {total} answers are other", style=style))
    counts = {"statuses": answers.statuses, "labels": answers.labels, "texts": answers.texts}
    said = [f"{name} {count}" for name, count in counts.items() if count]
    numbers = {"probability": answers.probability, "value": answers.value}
    said += [f"largest {k} difference {v:.2g}" for k, v in numbers.items() if v is not None]
    if said:
        out.print(", ".join(said))
    old, new = answers.before_p50, answers.after_p50
    if old is not None and new is not None:
        out.print(
            f"latency p50: A {old * 1e3:.2f} ms, B {new * 1e3:.2f} ms "
            f"({new / old:.2f} times A's; in turns, one request at a time)",
            soft_wrap=True,
        )


def _said(value: Any) -> str:
    return "-" if value is None else str(value)
