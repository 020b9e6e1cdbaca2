"""`vestal serve --detach`: start the server in a session of its own and wait until it is ready."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vestal.cli.output import err
from vestal.errors import UsageError, VestalError

if TYPE_CHECKING:
    from vestal.project import Project, ReadyFile

_POLL_SECONDS = 0.1
_END_SECONDS = 60.0
_LARGEST_LOG = 5_000_000
_TAIL = 20
_MARK = "vestal: "


def start_detached(project: Project, arguments: Sequence[str]) -> ReadyFile:
    """Start `vestal serve` with these arguments and return its ready file.

    Its output goes to `.vestal/logs/serve.log`.

    Raises:
        VestalError: it ended before it was ready, or a server runs here already.
        UsageError: it refused its arguments.
    """
    _refuse_second_server(project)
    log = serve_log(project)
    _prepare(log, project)
    start = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            # -P: the modules of a project are not in the way of installed ones.
            [sys.executable, "-P", "-m", "vestal", "serve", *arguments],
            cwd=project.root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        return _wait(project, process, log, start)
    except BaseException:
        _end(process)
        raise


def serve_log(project: Project) -> Path:
    """Return the file with the output of a detached server."""
    return project.logs / "serve.log"


def _wait(project: Project, process: subprocess.Popen[bytes], log: Path, start: int) -> ReadyFile:
    from vestal.project import ReadyFile

    with err.status("Starting the server") as spinner:
        while process.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                ready = ReadyFile.read(project.ready_file)
                if ready.pid == process.pid:
                    return ready
            lines = _lines(log, start)
            if lines:
                spinner.update(f"Starting the server: {lines[-1][:200]}".replace("[", r"\["))
            time.sleep(_POLL_SECONDS)
    raise _failure(process.returncode, _lines(log, start), log)


def _failure(code: int, lines: Sequence[str], log: Path) -> VestalError:
    """Return the server's own error; its message begins with `vestal: `."""
    last = max((i for i, line in enumerate(lines) if line.startswith(_MARK)), default=None)
    if code == 0:
        message = "the server was stopped before it was ready"
    elif last is not None:
        message = "\n".join([lines[last].removeprefix(_MARK), *lines[last + 1 :]])
    else:
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        tail = [f"    {line}" for line in lines[-_TAIL:]]
        message = "\n".join([f"the server {ended} before it was ready. End of {log}:", *tail])
    return UsageError(message) if code == UsageError.exit_code else VestalError(message)


def _refuse_second_server(project: Project) -> None:
    """Raise VestalError if a server runs here: its log must not be touched."""
    from vestal.client.settings import phase_near, read_ready_file

    try:
        ready = read_ready_file(project.ready_file)
        pid, state = ready.pid, ready.inference
    except VestalError:
        phase = phase_near(project.ready_file)
        if phase is None:
            return
        pid, state = phase.pid, phase.phase
    raise VestalError(
        f"`vestal serve` is already running in this project (pid {pid}, {state}). Use that server, "
        "or stop it first with `vestal stop`"
    )


def _prepare(log: Path, project: Project) -> None:
    """Create the folder of the log, and move a large log away."""
    project.state.mkdir(mode=0o700, exist_ok=True)
    log.parent.mkdir(exist_ok=True)
    if log.exists() and log.stat().st_size > _LARGEST_LOG:
        log.replace(log.with_name("serve.1.log"))


def _lines(log: Path, start: int) -> list[str]:
    with log.open("rb") as stream:
        stream.seek(start)
        return stream.read().decode("utf-8", "replace").splitlines()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
