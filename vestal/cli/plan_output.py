"""Plans, memory and times of the keeper, as commands print them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from vestal.cli.output import out, print_warning

if TYPE_CHECKING:
    from vestal.fleet.status import PlanReport


def print_plan(report: PlanReport) -> None:
    """Print the steps as a table, and what prevents others."""
    if report.steps:
        table = new_table("step", "model", "change", "memory", "why")
        for step in report.steps:
            memory = _transition(step.memory_before, step.memory_after)
            model = f"{step.model} {step.version}"
            # Text, because rich would interpret markup in a name.
            table.add_row(*map(Text, (step.action, model, step.change, memory, step.why)))
        out.print(table)
    for problem in report.problems:
        print_warning(f"{problem.model} {problem.version}: {problem.reason}")


def new_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines; long cells are folded, except in the first column."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for index, name in enumerate(columns):
        justify: Literal["left", "right"] = "right" if name in right else "left"
        table.add_column(name, overflow="fold", no_wrap=index == 0, justify=justify)
    return table


def format_memory(size: int | None) -> str:
    """`1.3 GB`, `650 MB`, or `unknown`."""
    if size is None:
        return "unknown"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def format_seconds(seconds: float | None) -> str:
    """`4.1 ms` or `1.20 s`; empty if there is no value."""
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _transition(before: int | None, after: int | None) -> str:
    if before == after:
        return format_memory(after)
    old, new = format_memory(before), format_memory(after)
    same_unit = old.endswith("B") and old[-2:] == new[-2:]
    return f"{old[:-3]} -> {new}" if same_unit else f"{old} -> {new}"
