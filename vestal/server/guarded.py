"""A process that ends with this one, even if this one is killed: a guardian stands between them."""

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
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.server import guardian

_SOCKET_PATH_LIMIT = 100
"""A Unix socket's path has at most 107 characters (103 on macOS)."""
_GUARDIAN_SECONDS = 20.0

_running: weakref.WeakSet[GuardedProcess] = weakref.WeakSet()


def _close_in_child() -> None:
    # The guardian ends the process when its input is closed, so a child must not keep it open.
    for process in list(_running):
        process.close_input()


os.register_at_fork(after_in_child=_close_in_child)


class GuardedProcess:
    """A process and its guardian. It ends with `stop`, or with this process.

    Args:
        name: of the program, for messages.
        files: removed at the end.
        lock: file descriptor that the guardian keeps open until everything is removed.

    Attributes:
        folder: a temporary folder with mode 0700, removed at the end.

    Raises:
        VestalError: the guardian cannot be started.
    """

    def __init__(self, name: str, files: Sequence[str], lock: int) -> None:
        self._name, self._files = name, list(files)
        self._folder: str | None = None
        self._pid: int | None = None
        self._received = b""
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", guardian.__file__, str(temp_folder()), *self._files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a forked child would get a copy of the buffer
            start_new_session=True,
            pass_fds=[lock],
        )
        _running.add(self)
        try:
            self._folder = self._expect("folder")
        except BaseException:
            self.stop()
            raise

    @property
    def folder(self) -> Path:
        assert self._folder is not None
        return Path(self._folder)

    @property
    def pid(self) -> int:
        """Process id of the program."""
        assert self._pid is not None
        return self._pid

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], cwd: Path, output: Path
    ) -> None:
        """Start the program; its output goes to a file. Raises VestalError if it cannot."""
        job = {
            "command": list(command),
            "environment": dict(environment),
            "cwd": str(cwd),
            "output": str(output),
        }
        self._send(json.dumps(job).encode() + b"\n")
        self._pid = self._expect("pid")

    def ended(self, seconds: float) -> str | None:
        """Wait for the end; return how it ended (`exit code 1`), or None at the time limit."""
        message = self._receive(seconds)
        if message is None:
            return None
        if "exit" not in message:
            return "its guardian was killed"
        status = int(message["exit"])
        return f"killed by {_signal_name(-status)}" if status < 0 else f"exit code {status}"

    def stop(self) -> None:
        """End all processes and remove all files; a second call does nothing."""
        stdin, stdout = self._guardian.stdin, self._guardian.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(OSError):
            stdin.close()  # tells the guardian to stop
        try:
            self._guardian.wait(_GUARDIAN_SECONDS)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()
        if self._guardian.returncode != 0:
            self._end_without_guardian()
        stdout.close()

    def close_input(self) -> None:
        """Close the guardian's input in this process; for a forked child, which owns no server."""
        assert self._guardian.stdin is not None
        self._guardian.stdin.close()

    def _end_without_guardian(self) -> None:
        deadline = time.monotonic() + _GUARDIAN_SECONDS
        while self._pid is not None and guardian.signal_group(self._pid, signal.SIGKILL):
            if time.monotonic() > deadline:  # zombies that their new parent does not collect
                break
            time.sleep(0.05)
        if self._folder is not None:
            guardian.remove(self._folder, self._files)

    def _send(self, line: bytes) -> None:
        assert self._guardian.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing reply is reported
            self._guardian.stdin.write(line)
            self._guardian.stdin.flush()

    def _expect(self, key: str) -> Any:
        message = self._receive(_GUARDIAN_SECONDS) or {"error": "its guardian did not respond"}
        if key not in message:
            raise VestalError(
                f"{self._name} cannot be started: {message.get('error', 'its guardian was killed')}"
            )
        return message[key]

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the guardian's next message; {} if it has ended, None at the time limit."""
        assert self._guardian.stdout is not None
        source = self._guardian.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._received:
            readable, _, _ = select.select([source], [], [], max(deadline - time.monotonic(), 0))
            if not readable:
                return None
            piece = os.read(source, 4096)
            if not piece:
                return {}
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


def temp_folder() -> Path:
    """Return the temp folder, or /tmp if its path is too long for TorchServe's sockets."""
    temp = Path(tempfile.gettempdir()).absolute()
    longest = temp / f"{guardian.PREFIX}12345678" / ".ts.sock.65535"
    return temp if len(os.fsencode(longest)) <= _SOCKET_PATH_LIMIT else Path("/tmp")  # noqa: S108


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
