"""`vestal apply`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vestal.cli.changing import (
    SERVING_FILE,
    ChangeTimeout,
    finish,
    is_done,
    model_store,
    print_unchanged,
    source_of,
)
from vestal.cli.output import Json, print_json
from vestal.cli.plan_output import print_plan
from vestal.errors import UsageError, VestalError

if TYPE_CHECKING:
    from vestal.fleet.desired import Desired
    from vestal.fleet.keeper_client import KeeperClient
    from vestal.fleet.status import PlanReport
    from vestal.project import Project


def apply(
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", help=f"File to apply. Default: {SERVING_FILE}."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and change nothing.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help="Do not ask before a version that serves requests is replaced or removed.",
        ),
    ] = False,
    timeout: ChangeTimeout = 900.0,
    as_json: Json = False,
) -> None:
    """Make the running server match serving.yaml."""
    from vestal.fleet.keeper_client import Conflict, KeeperClient
    from vestal.fleet.resolving import resolve
    from vestal.fleet.serving_file import load
    from vestal.project import Project

    project = Project.here()
    path = _find(project, file)
    content = load(path)
    client = KeeperClient(project)
    desired = resolve(content, model_store(project), project.root)
    base, before = client.desired()
    report = client.plan(desired)
    source = source_of("vestal apply", content)
    unchanged = desired == before and is_done(client, base, report)
    if unchanged and (dry_run or source.sha256 == _applied(client, base)):
        print_unchanged(base, as_json)
        return
    if not as_json:
        print_plan(report)
    if report.problems:
        if as_json:
            print_json(_facts(report))
        raise VestalError("the plan cannot be carried out completely; nothing was changed")
    if dry_run:
        if as_json:
            print_json(_facts(report))
        return
    if not yes and _replaces(report, before) and sys.stdin.isatty():
        typer.confirm("Carry out this plan?", abort=True, err=True)
    try:
        revision = client.apply(desired, source, base)
    except Conflict:
        raise VestalError(
            "another command has changed what is desired since this plan was made. Nothing was "
            "changed; run `vestal apply` again"
        ) from None
    finish(client, revision, report, timeout, as_json)


def _find(project: Project, file: Path | None) -> Path:
    path = file or project.path(SERVING_FILE)
    if path.is_file():
        return path
    if file is not None:
        raise UsageError(f"there is no file {file}")
    for folder in project.root.absolute().parents:
        if (folder / SERVING_FILE).is_file():
            raise UsageError(
                f"there is no {SERVING_FILE} in {project.root}, but one in {folder}. Run the "
                f"command there: cd {folder}"
            )
    raise UsageError(
        f"there is no {SERVING_FILE} in {project.root}. Write one, pass another file with -f FILE, "
        "or use `vestal register ARCHIVE`"
    )


def _applied(client: KeeperClient, revision: int) -> str | None:
    """The digest of the file from which a revision was made."""
    made = [each for each in client.revisions() if each.number == revision]
    return made[0].source.sha256 if made else None


def _replaces(report: PlanReport, before: Desired) -> bool:
    """Whether a version that serves requests is replaced or removed."""
    return any(
        step.action == "remove" or (step.action == "switch" and step.model in before.models)
        for step in report.steps
    )


def _facts(report: PlanReport) -> dict[str, object]:
    return {"revision": None, "outcome": None, "plan": report.model_dump(mode="json")}
