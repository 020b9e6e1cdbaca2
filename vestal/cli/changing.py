"""What all commands that change the desired state do: plan, apply, follow, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vestal.cli.output import out, print_json, print_warning
from vestal.cli.progress_of_revision import follow, raise_unless_done
from vestal.errors import VestalError

if TYPE_CHECKING:
    from vestal.fleet.desired import Desired
    from vestal.fleet.keeper_client import KeeperClient
    from vestal.fleet.serving_file import ServingFile
    from vestal.fleet.status import PlanReport, RevisionSummary, Source
    from vestal.project import Project

SERVING_FILE = "serving.yaml"
_TRIES = 5

ChangeTimeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        min=1,
        help="Time limit for watching the keeper's work, in seconds. The keeper itself continues.",
    ),
]


def change_desired(
    command: str,
    change: Callable[[Desired], Desired],
    *,
    model: str | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Change what is desired and follow the keeper until it has done it.

    Args:
        command: for the history, such as `vestal scale mnist 2`.
        change: makes the new desired state; it is called again if another command was faster.
        model: its problems in the plan refuse the change; None: no problem does.

    Raises:
        VestalError: the change is impossible, was rejected, or was not done in time.
    """
    from vestal.fleet.keeper_client import Conflict, KeeperClient
    from vestal.project import Project

    project = Project.here()
    client = KeeperClient(project)
    for _ in range(_TRIES):
        base, before = client.desired()
        after = change(before)
        report = client.plan(after)
        own = [each for each in report.problems if each.model == model]
        refuse_problems(report.model_copy(update={"problems": own}))
        if after == before and is_done(client, base, report):
            print_unchanged(base, as_json)
            return
        try:
            revision = client.apply(after, source_of(command), base)
        except Conflict:
            continue
        finish(client, revision, report, seconds, as_json)
        warn_about_file(project, after)
        return
    raise VestalError("other commands keep changing what is desired; try again")


def finish(
    client: KeeperClient,
    revision: RevisionSummary,
    report: PlanReport | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Follow a revision and print its outcome; raise VestalError if it is not `done`."""
    ended = follow(client, revision, seconds)
    if as_json:
        plan = {} if report is None else {"plan": report.model_dump(mode="json")}
        print_json({**_facts(ended), **plan})
    raise_unless_done(ended)
    if not as_json:
        changes = ", ".join(revision.changes) or "nothing changed"
        out.print(f"Done: {changes} (revision {ended.number})", markup=False, soft_wrap=True)


def is_done(client: KeeperClient, revision: int, report: PlanReport) -> bool:
    """Whether nothing is left to do. A revision that failed is not done: it is tried again."""
    if report.steps or report.problems:
        return False
    made = [each for each in client.revisions() if each.number == revision]
    return all(each.outcome == "done" for each in made)


def print_unchanged(revision: int, as_json: bool) -> None:
    """Print that there is nothing to do."""
    if as_json:
        facts = {"revision": revision, "outcome": "unchanged", "reason": None, "changes": []}
        print_json({**facts, "plan": {"steps": [], "problems": []}})
    else:
        out.print("Nothing to do: everything runs as desired.")


def refuse_problems(report: PlanReport) -> None:
    """Raise VestalError for the problems of a plan."""
    if report.problems:
        reasons = [f"{each.model} {each.version}: {each.reason}" for each in report.problems]
        raise VestalError(f"{'; '.join(reasons)}. Nothing was changed")


def source_of(command: str, file: ServingFile | None = None) -> Source:
    """Return who makes a change, for the history."""
    from vestal.fleet.revisions import user_name
    from vestal.fleet.status import Source

    user = user_name()
    if file is None:
        return Source(command=command, user=user)
    return Source(command=command, user=user, file=str(file.path), sha256=file.sha256)


def warn_about_file(project: Project, desired: Desired) -> None:
    """Print a warning if serving.yaml describes another state than the desired one."""
    file = project.root / SERVING_FILE
    if not file.is_file():
        return
    from vestal.fleet.resolving import resolve
    from vestal.fleet.serving_file import load

    try:
        same = resolve(load(file), model_store(project), project.root) == desired
    except VestalError:
        same = False
    if not same:
        print_warning(
            f"{SERVING_FILE} still describes another state; `vestal apply` would bring it back. "
            "Edit the file to keep this change"
        )


def model_store(project: Project) -> Path:
    """Return the model store of the project's server, or of its configuration."""
    from vestal.client.settings import read_ready_file
    from vestal.configuration.config import Configuration

    try:
        ready = read_ready_file(project.ready_file)
    except VestalError:
        ready = None
    if ready is not None and ready.model_store is not None:
        return Path(ready.model_store)
    return Configuration.load(project).model_store


def _facts(revision: RevisionSummary) -> dict[str, object]:
    return {
        "revision": revision.number,
        "outcome": revision.outcome,
        "reason": revision.reason,
        "changes": revision.changes,
    }
