"""What should run when `vestal serve` starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vestal.errors import UsageError
from vestal.fleet.desired import Desired
from vestal.fleet.resolving import default_desired
from vestal.fleet.revisions import START, user_name
from vestal.fleet.state import StateStore
from vestal.fleet.status import Source
from vestal.mar.index import sha256_of
from vestal.project import Project
from vestal.server.spec import FailedArchive, ModelSpec, find_models

SERVING_FILE = "serving.yaml"


@dataclass
class Initial:
    """What should run at first.

    Attributes:
        source: it is to be stored as a new revision with this source; None: it is not stored, or
            (if `stored`) it is the newest revision.
        failed: archives that cannot be read.
        notices: sentences for the user.
    """

    desired: Desired
    stored: bool = False
    source: Source | None = None
    failed: list[FailedArchive] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def choose(
    project: Project,
    archives: Sequence[str | ModelSpec],
    store: Path,
    state: StateStore,
    serving_file: Path | None,
    timeout: float,
) -> Initial:
    """Choose the desired state: from the arguments, `.vestal/state`, serving.yaml, or the store.

    Raises:
        UsageError: an argument or serving.yaml is invalid.
        VestalError: there is no archive that can be read.
    """
    if archives and serving_file:
        raise UsageError("archives and a serving file were both passed; pass only one of them")
    if archives:
        return _from_archives(archives, store, state, timeout)
    file = serving_file or project.root / SERVING_FILE
    if serving_file is None and (restored := _restored(state, file)) is not None:
        return restored
    if serving_file is not None or file.exists():
        return _from_file(file, project, store)
    return _from_archives((), store, state, timeout)


def needs_archives(project: Project, serving_file: Path | None) -> bool:
    """Whether neither a stored state nor a serving file can decide what runs."""
    file = serving_file or project.root / SERVING_FILE
    return not file.exists() and not state_folder(project).is_dir()


def state_folder(project: Project) -> Path:
    return project.state / "state"


def _from_archives(
    archives: Sequence[str | ModelSpec], store: Path, state: StateStore, timeout: float
) -> Initial:
    specs, failed = find_models(archives, store)
    desired = _with_timeout(default_desired(specs), timeout)
    initial = Initial(desired, failed=failed)
    dropped = state.desired
    if archives and dropped is not None and state.revisions[0].source.command != START:
        names = ", ".join(f"{name} {model.default}" for name, model in dropped.models.items())
        initial.notices.append(
            f"serving the archives of the arguments instead of the stored state ({names or 'none'})"
        )
    return initial


def _with_timeout(desired: Desired, seconds: float) -> Desired:
    models = {
        name: model.model_copy(
            update={"swap": model.swap.model_copy(update={"ready_seconds": seconds})}
        )
        for name, model in desired.models.items()
    }
    return desired.model_copy(update={"models": models})


def _restored(state: StateStore, file: Path) -> Initial | None:
    revisions = state.revisions
    if not revisions or revisions[0].source.command == START:
        return None
    newest = revisions[0]
    initial = Initial(newest.desired, stored=True)
    initial.notices.append(
        f"restoring revision {newest.number} of the desired state (`{newest.source.command}`)"
    )
    if file.exists():
        applied = next((r.source.sha256 for r in revisions if r.source.sha256), None)
        if sha256_of(file) != applied:
            initial.notices.append(
                f"{file.name} has changed since it was applied. Run `vestal apply` to apply it"
            )
    return initial


def _from_file(file: Path, project: Project, store: Path) -> Initial:
    from vestal.fleet.resolving import resolve
    from vestal.fleet.serving_file import load

    desired = resolve(load(file), store, project.root)
    source = Source(
        command="vestal serve -f", user=user_name(), file=str(file), sha256=sha256_of(file)
    )
    return Initial(desired, stored=True, source=source)
