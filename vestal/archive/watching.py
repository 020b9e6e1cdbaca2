"""Wait until files change, by polling, which works on every file system."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from vestal.mar.layout import CONFIG, HANDLER
from vestal.project import Project

SECONDS = 0.3
State = dict[Path, tuple[int, int]]


def state_of(places: Iterable[Path]) -> State:
    """Return time and size of every file and of those in every folder, without caches."""
    found: State = {}
    for place in places:
        for file in place.rglob("*") if place.is_dir() else [place]:
            if "__pycache__" in file.parts:
                continue
            try:
                stat = file.stat()
            except OSError:  # deleted in the meantime
                continue
            if not file.is_dir():
                found[file] = (stat.st_mtime_ns, stat.st_size)
    return found


def wait_for_change(
    places: Callable[[], Iterable[Path]], before: State, seconds: float = SECONDS
) -> list[Path]:
    """Block until a file differs from `before` and has not changed for `seconds`.

    Returns:
        The files that are new, changed or deleted, sorted.
    """
    seen = before
    while True:
        time.sleep(seconds)
        now = state_of(places())
        changed = {file for file, _ in now.items() ^ before.items()}
        if changed and now == seen:  # an editor may write in several steps
            return sorted(changed)
        seen = now


def sources_of(project: Project, name: str, weights: str | None = None) -> list[Path]:
    """Return the files and folders that a model of the project is staged from.

    These are the training's copy of its code, and the handler and model-config.yaml in the model's
    folder; for weights from another source, the whole folder.

    Raises:
        VestalError: the model has no training.
    """
    import vestal_handlers
    from vestal.model_folders import find_model
    from vestal.runs import RECORD, latest_run

    home, handlers = find_model(project, name), Path(vestal_handlers.__file__).parent
    if weights is not None and not (Path(weights) / RECORD).is_file():
        return [home, handlers, *([Path(weights)] if Path(weights).exists() else [])]
    run = Path(weights) if weights is not None else latest_run(project, name)
    # A new training becomes the newest one.
    records = sorted((project.runs / name).glob(f"*/{RECORD}"))
    return [run, home / HANDLER, home / CONFIG, handlers, *records]
