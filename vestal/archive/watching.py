"""Waits until files change: by looking, as that needs nothing and works on every file system."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from vestal.mar.layout import CONFIG, HANDLER
from vestal.project import Project

SECONDS = 0.3
State = dict[Path, tuple[int, int]]


def state_of(places: Iterable[Path]) -> State:
    """Time and size of every file, and of those below every folder, but for caches."""
    found: State = {}
    for place in places:
        for file in place.rglob("*") if place.is_dir() else [place]:
            if "__pycache__" in file.parts:
                continue
            try:
                stat = file.stat()
            except OSError:  # gone meanwhile: that is a change too
                continue
            if not file.is_dir():
                found[file] = (stat.st_mtime_ns, stat.st_size)
    return found


def wait_for_change(
    places: Callable[[], Iterable[Path]], before: State, seconds: float = SECONDS
) -> list[Path]:
    """Blocks until something is other than `before`, and has been quiet for one look.

    Returns:
        The files that are new, changed or gone, sorted.
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
    """What a model of the project is staged from: the training's own copy of its code, and of the
    model's folder what says how it is served; all of that folder for weights from elsewhere.

    Raises:
        VestalError: it was never trained.
    """
    import vestal_handlers
    from vestal.model_folders import find_model
    from vestal.runs import RECORD, latest_run

    home, handlers = find_model(project, name), Path(vestal_handlers.__file__).parent
    if weights is not None and not (Path(weights) / RECORD).is_file():
        return [home, handlers, *([Path(weights)] if Path(weights).exists() else [])]
    run = Path(weights) if weights is not None else latest_run(project, name)
    # A new training takes the place of the newest.
    records = sorted((project.runs / name).glob(f"*/{RECORD}"))
    return [run, home / HANDLER, home / CONFIG, handlers, *records]
