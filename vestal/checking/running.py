"""Loads an archive in a child process with a time and a memory limit, and reads how it went.

It is a guard against accidents (a loop, a leak, a crash), no sandbox: the archive's code runs with
the caller's rights.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

import vestal
from vestal.children import parents_pid
from vestal.files.disk_errors import check_output_of_failed_process
from vestal.mar.findings import Findings
from vestal.mar.opening import Contents

SECONDS = 120.0
MEMORY = 8 << 30  # bytes
MARK = "VESTAL_CHECK"  # in the environment of what a check starts
MOST = 1 << 62  # bytes; more is no number to setrlimit
_TAIL = 4  # lines of what it wrote last
_DOING = {
    "import": "TorchServe and torch were imported",
    "load": "the handler was loaded",
    "sample": "the sample was answered",
}
_TODO = {
    "option": "correct it in model-config.yaml and pack again",
    "weights-mismatch": "pack the weights with the architecture that they were trained with",
    "load-failed": "see it whole with vestal run, and a debugger in the handler",
    "answer-refused": "ask the handler for its sample with vestal run",
    "answer-differs": "pack it again, so that weights and answer are of one training; "
    "or it runs here with another torch or on another kind of machine",
    "memory": "give it more with --memory, and the server too",
}


def run(
    contents: Contents, found: Findings, *, seconds: float = SECONDS, memory: int = MEMORY
) -> None:
    """Loads the archive, asks it for its sample, and says what went wrong.

    Args:
        seconds: for everything, with the import of torch, which takes several of them.
        memory: bytes that the process may allocate; importing torch takes about 900 MB of them.
    """
    with tempfile.TemporaryDirectory(prefix="vestal-child-") as scratch:
        report, log = Path(scratch, "report"), Path(scratch, "log")
        command = [sys.executable, "-m", __name__.replace(".running", ".child")]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, str(contents.folder.resolve()), str(report)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=scratch,
                env=_environment(scratch),
                start_new_session=True,
                preexec_fn=_limited(memory),
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process, scratch)
        steps = _steps(report)
        failed = [step for step in steps if "failed" in step]
        if code or failed:
            told = "\n".join([_tail(log), *(str(step.get("meaning")) for step in failed)])
            check_output_of_failed_process(told, Path(scratch).parent)
        doing = _DOING.get(steps[-1].get("step", "import") if steps else "import", "it ended")
        for step in failed:
            name = step["failed"]
            found.error(name, "", _first_lines(step.get("meaning", "")), _TODO[name])
        if code is None:
            found.error(
                "timeout",
                "",
                f"after {seconds:g} s it was not done; at that time {doing}",
                "look for a loop or a download in the handler, or give it longer with --timeout",
            )
        elif code != 0 or (not failed and {"step": "done"} not in steps):
            found.error(
                "crash",
                "",
                f"the process ended with {_ending(code)} while {doing}: {_tail(log)}",
                "look for native code and for os._exit in the handler, see it with vestal run; "
                "SIGKILL means most often that the machine's memory was full",
            )


def _environment(scratch: str) -> dict[str, str]:
    root = Path(vestal.__file__).parents[1]
    return {
        **os.environ,
        **parents_pid(),
        # The child must find this vestal, whatever the folder that it starts in.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        "PYTHONDONTWRITEBYTECODE": "1",  # a folder that is checked stays as it is
        "PYTHONFAULTHANDLER": "1",
        "TMPDIR": scratch,
        MARK: scratch,
    }


def _limited(memory: int) -> Callable[[], None]:
    # Nobody may go above the limit that holds already (ulimit -d).
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    memory = min(memory, MOST if hard == resource.RLIM_INFINITY else hard)

    # Of the limits, this one counts what is allocated: 0.9 GB once torch is imported, and a
    # tensor too large fails there and then. RLIMIT_AS counts 3.4 GB of mapped libraries instead.
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return limit


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Ends it and what it started, also in sessions of their own: they inherit the mark."""
    with contextlib.suppress(ProcessLookupError):  # gone, and nobody is left behind
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(10):  # what starts others while it is ended
        left = [each for each in psutil.process_iter() if _mark_of(each) == mark]
        for each in left:
            with contextlib.suppress(psutil.Error):
                each.kill()
        if not left:
            return
        psutil.wait_procs(left, timeout=5)


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK) if process.pid != os.getpid() else None
    except (psutil.Error, OSError):  # of somebody else, or gone
        return None


def _steps(report: Path) -> list[dict[str, Any]]:
    if not report.is_file():
        return []
    steps = []
    for line in report.read_text("utf-8", "replace").splitlines():
        try:
            step = json.loads(line)
        except (ValueError, RecursionError):
            continue  # cut short where the process died
        # The archive's code can write there, too.
        if isinstance(step, dict) and all(isinstance(value, str) for value in step.values()):
            steps += [step] if step.get("failed", "memory") in _TODO else []
    return steps


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _tail(log: Path) -> str:
    lines = log.read_bytes()[-2000:].decode("utf-8", "replace").strip().splitlines()
    return "; ".join(line.strip() for line in lines[-_TAIL:]) or "it wrote nothing"


def _first_lines(text: str, lines: int = 6) -> str:
    kept = [line.strip() for line in text.strip().splitlines() if line.strip()]
    more = f" ... and {len(kept) - lines} more" if len(kept) > lines else ""
    return "; ".join(kept[:lines]) + more
