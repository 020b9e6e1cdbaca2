"""Start and stop a TorchServe process, through its guardian."""

from __future__ import annotations

import contextlib
import importlib.util
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.configuration.config import LOG_CONFIG, Configuration
from vestal.configuration.ports import Endpoint
from vestal.errors import VestalError
from vestal.openmp import passive_wait_variables
from vestal.project import Project
from vestal.server import guardian
from vestal_handlers.digests import FOLDER_VARIABLE

_SOCKET_PATH_LIMIT = 100
"""A Unix socket's path has at most 107 characters (103 on macOS)."""
_GUARDIAN_SECONDS = 20.0


@dataclass(frozen=True)
class LaunchOptions:
    """Everything that a start needs. `state_files`: removed at the end."""

    project: Project
    configuration: Configuration
    endpoints: list[Endpoint]
    model_store: Path
    state_files: Sequence[Path]
    java: Path


_running: weakref.WeakSet[TorchServe] = weakref.WeakSet()


def _close_in_child() -> None:
    # The guardian ends TorchServe when its input is closed, so a child must not keep it open.
    for torchserve in list(_running):
        torchserve.close_input()


os.register_at_fork(after_in_child=_close_in_child)


class TorchServe:
    """A TorchServe process. It ends with `stop`, or with this process."""

    def __init__(self, options: LaunchOptions, lock: int) -> None:
        """Start the process.

        Args:
            lock: file descriptor that the guardian keeps open until everything is removed.

        Raises:
            VestalError: Java cannot be started.
        """
        project = options.project
        console = project.logs / "console.log"
        state_files = [*options.state_files, *map(temporary_path, options.state_files)]
        keys = project.key_file
        renewal_lock = keys.with_name(f"{keys.name}.lock")  # created by clients
        self._files = [str(keys), str(renewal_lock), *map(str, state_files)]
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
            folder = Path(self._folder)
            effective = folder / "config.properties"
            text = options.configuration.effective(options.endpoints, options.model_store)
            effective.write_text(text, encoding="latin-1")
            job = {
                "command": _command(options, folder, effective),
                "environment": {
                    **_environment(os.environ, folder, project.logs),
                    FOLDER_VARIABLE: str(project.shadow.absolute()),
                },
                "cwd": str(project.state),  # TorchServe writes its key file into it
                "output": str(console),
            }
            self._send(json.dumps(job).encode() + b"\n")
            self._pid = self._expect("pid")
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Process id of TorchServe."""
        assert self._pid is not None
        return self._pid

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
                f"TorchServe cannot be started: {message.get('error', 'its guardian was killed')}"
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


def temporary_path(state_file: Path) -> Path:
    """Return where a state file is written before it is renamed. The guardian removes it too."""
    return state_file.with_name(f".{state_file.name}.partial")


def _command(options: LaunchOptions, folder: Path, effective: Path) -> list[str]:
    """Return the Java command; ts/model_server.py cannot set the working folder and the log."""
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise VestalError("TorchServe is not installed: pip install 'vestal[serve]'")
    home = Path(spec.origin).parent.parent
    class_path = str(home / "ts" / "frontend" / "*")
    if plugins := options.configuration.values.get("plugins_path"):
        class_path += f":{plugins}" if "*" in plugins else f":{plugins}/*"
    return [
        str(options.java),
        f"-Dmodel_server_home={home}",
        *options.configuration.java_options,
        f"-Dlog4j.configurationFile={LOG_CONFIG.as_uri()}",
        f"-Djava.io.tmpdir={folder}",
        # Otherwise, Java writes /tmp/hsperfdata_USER/PID, which remains after kill -9.
        "-XX:-UsePerfData",
        *("-cp", class_path, "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable),
        *("-f", str(effective)),
        *("-s", str(options.model_store)),
        # With a configuration file, TorchServe does not restore snapshots anyway (#1542).
        "-ncs",
    ]


def _environment(inherited: Mapping[str, str], folder: Path, logs: Path) -> dict[str, str]:
    """Return the environment of TorchServe and its workers.

    Without PYTHONPATH and PYTHONHOME: an archive uses only its own code and installed packages.
    Without TS_*: TorchServe would prefer TS_CONFIG_FILE and other variables to our configuration.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in {"PYTHONPATH", "PYTHONHOME"} and not name.startswith("TS_")
    }
    if not _has_utf8_locale(kept):
        kept["LC_ALL"] = "C.UTF-8"  # otherwise, Java cannot open a path that is not ASCII
    # Workers are started as `python`.
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return {
        **kept,
        **passive_wait_variables(kept),
        "TMPDIR": str(folder),
        "TEMP": str(folder),
        "PATH": path,
        "LOG_LOCATION": str(logs),
        "METRICS_LOCATION": str(logs),
    }


def _has_utf8_locale(environment: Mapping[str, str]) -> bool:
    """Whether a C program such as Java gets UTF-8 from LC_ALL, LC_CTYPE, LANG and the others.

    If one of the locales is not installed, even LC_TIME's, the program gets ASCII.
    """
    script = "import locale; locale.setlocale(locale.LC_ALL, ''); "
    script += "print(locale.nl_langinfo(locale.CODESET))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={**environment, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip().upper().replace("-", "") == "UTF8"


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
