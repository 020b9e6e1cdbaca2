"""Run a Python module in a child process with limits of time and memory.

The child writes lines of JSON (see `vestal.inprocess.child`); everything else that it prints goes
to a log. This guards against accidents (a loop, a leak, a crash). It is no sandbox: the code runs
with the caller's rights.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil

import vestal
from vestal.children import parents_pid
from vestal.errors import VestalError
from vestal.files.disk_errors import raise_if_disk_full

MARK = "VESTAL_CHILD"  # in the environment of a child and its descendants
_SECONDS_TO_END = 10.0  # for a process that has closed its pipe
_LOG_BYTES = 2000
_LOG_LINES = 4


class ChildTimeout(VestalError):
    """The child took longer than its time limit."""


class ChildDied(VestalError):
    """The child ended, or wrote something that is not a line of JSON.

    Attributes:
        ending: exit code, signal or invalid reply.
        output: the last lines that it printed, in one line.
    """

    def __init__(self, name: str, doing: str, ending: str, output: str) -> None:
        super().__init__(f"{name}: its process ended with {ending} while {doing}: {output}")
        self.ending, self.output = ending, output


class ChildProcess:
    """`python -m MODULE ARGUMENTS`; `name` is for messages.

    Args:
        environment: more variables for the child.
    """

    def __init__(
        self,
        name: str,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._scratch = tempfile.TemporaryDirectory(prefix="vestal-child-")
        self._log = Path(self._scratch.name, "log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env={**os.environ, **self._environment(), **(environment or {})},
                start_new_session=True,
            )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)

    def exchange(self, line: bytes, doing: str, seconds: float | None) -> dict[str, Any]:
        """Write a line, if it is not empty, and read one; neither blocks past the time limit.

        Args:
            doing: what the child does meanwhile, for messages: "loading".
            seconds: time limit; None: no limit.

        Raises:
            ChildTimeout, ChildDied: there is no reply.
            VestalError: the child ended because its disk is full.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        deadline = None if seconds is None else time.monotonic() + seconds
        left, reply = memoryview(line), bytearray()
        while not reply.endswith(b"\n"):
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            readable, writable, _ = select.select([stdout], [stdin] if left else [], [], rest)
            if not readable and not writable:
                raise ChildTimeout(f"{self.name}: {doing} took longer than {seconds:g} s")
            try:
                if writable:
                    left = left[os.write(stdin.fileno(), left) :]
                if readable:
                    piece = os.read(stdout.fileno(), 1 << 16)
                    if not piece:
                        raise self._died(doing)
                    reply += piece
            except BrokenPipeError:
                raise self._died(doing) from None
        try:
            found = json.loads(reply)
            if not isinstance(found, dict):
                raise ValueError("no JSON object")
        except (ValueError, RecursionError):
            ending = f"an invalid reply ({bytes(reply[:40])!r})"
            raise ChildDied(self.name, doing, ending, self.output()) from None
        return found

    def output(self) -> str:
        """The last lines that the child and its descendants printed, in one line."""
        with self._log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
        return "; ".join(line.strip() for line in lines[-_LOG_LINES:]) or "it printed nothing"

    def check_disk(self, text: str) -> None:
        """Raise VestalError if an error of the child tells of a full disk, and it is full."""
        raise_if_disk_full(text, Path(self._scratch.name).parent)

    def close(self) -> None:
        """Kill the child and its descendants, and delete its temporary files."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._kill_descendants()
        # Not read to their end: another process may hold them open.
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._scratch.cleanup()

    def _died(self, doing: str) -> VestalError:
        try:
            code = self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:  # it has only closed its pipe
            self._process.kill()
            code = self._process.wait()
        output = self.output()
        self.check_disk(output)
        ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return ChildDied(self.name, doing, ending, output)

    def _kill_descendants(self) -> None:
        """Kill processes in sessions of their own; they have inherited the mark."""
        for _ in range(10):  # a process may start another one meanwhile
            left = [process for process in psutil.process_iter() if self._is_descendant(process)]
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            if not left:
                return
            psutil.wait_procs(left, timeout=5)

    def _is_descendant(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self._scratch.name
        except (psutil.Error, OSError):  # it belongs to another user, or has ended
            return False

    def _environment(self) -> dict[str, str]:
        # The child must find this vestal, regardless of its working directory.
        root = str(Path(vestal.__file__).parents[1])
        return {
            **parents_pid(),
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
            "PYTHONDONTWRITEBYTECODE": "1",  # the archive's folder stays unchanged
            "PYTHONFAULTHANDLER": "1",
            "TMPDIR": self._scratch.name,
            MARK: self._scratch.name,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
