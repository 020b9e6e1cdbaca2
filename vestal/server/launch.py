"""One TorchServe process under its guardian: command line, environment, start, end."""

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
from vestal.openmp import waiting
from vestal.project import Project
from vestal.server import guardian

_SOCKET_PATH_LIMIT = 100
"""A Unix socket's path has at most 107 characters (103 on macOS)."""
_END_SECONDS = 20.0


@dataclass(frozen=True)
class Plan:
    """What one start is made of."""

    project: Project
    configuration: Configuration
    endpoints: list[Endpoint]
    model_store: Path
    ready_files: Sequence[Path]
    java: Path


_running: weakref.WeakSet[TorchServe] = weakref.WeakSet()


def _close_in_child() -> None:
    # The guardian ends TorchServe when its input closes: a forked child must not keep that open.
    for torchserve in list(_running):
        torchserve.forget()


os.register_at_fork(after_in_child=_close_in_child)


class TorchServe:
    """A TorchServe that runs until `stop` or until it dies; nothing of it outlives this process."""

    def __init__(self, plan: Plan, lock: int) -> None:
        """Starts it. `lock`: the descriptor that the guardian keeps open until all is clean.

        Raises VestalError where Java cannot be started.
        """
        project = plan.project
        console = project.logs / "console.log"
        ready_files = [*plan.ready_files, *map(partial, plan.ready_files)]
        keys = project.key_file
        renewal = keys.with_name(f"{keys.name}.lock")  # of the clients that renew the keys
        self._files = [str(keys), str(renewal), *map(str, ready_files)]
        self._folder: str | None = None
        self._pid: int | None = None
        self._heard = b""
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", guardian.__file__, str(temp_folder()), *self._files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a fork would copy a buffer
            start_new_session=True,
            pass_fds=[lock],
        )
        _running.add(self)
        try:
            self._folder = self._expect("folder")
            folder = Path(self._folder)
            effective = folder / "config.properties"
            text = plan.configuration.effective(plan.endpoints, plan.model_store)
            effective.write_text(text, encoding="latin-1")
            job = {
                "command": _command(plan, folder, effective),
                "environment": _environment(os.environ, folder, project.logs),
                "cwd": str(project.state),  # TorchServe writes its key file where it runs
                "output": str(console),
            }
            self._tell(json.dumps(job).encode() + b"\n")
            self._pid = self._expect("pid")
        except BaseException:
            self.stop()
            raise

    def ended(self, seconds: float) -> str | None:
        """Waits at most so long for the end; how it ended (`exit code 1`), or None."""
        message = self._hear(seconds)
        if message is None:
            return None
        if "exit" not in message:
            return "its guardian was killed"
        status = int(message["exit"])
        return f"killed by {_signal(-status)}" if status < 0 else f"exit code {status}"

    def stop(self) -> None:
        """Ends every process and removes every file of the run; once is enough."""
        stdin, stdout = self._guardian.stdin, self._guardian.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(OSError):
            stdin.close()  # the guardian's sign to end everything
        try:
            self._guardian.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()
        if self._guardian.returncode != 0:
            self._end_without_guardian()
        stdout.close()

    def forget(self) -> None:
        """Close this process's end of the guardian's input: a fork of the owner owns nothing."""
        assert self._guardian.stdin is not None
        self._guardian.stdin.close()

    def _end_without_guardian(self) -> None:
        deadline = time.monotonic() + _END_SECONDS
        while self._pid is not None and guardian.signal_group(self._pid, signal.SIGKILL):
            if time.monotonic() > deadline:  # zombies whose new parent does not collect them
                break
            time.sleep(0.05)
        if self._folder is not None:
            guardian.clean(self._folder, self._files)

    def _tell(self, line: bytes) -> None:
        assert self._guardian.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its silence says it better
            self._guardian.stdin.write(line)
            self._guardian.stdin.flush()

    def _expect(self, key: str) -> Any:
        message = self._hear(_END_SECONDS) or {"error": "nothing was heard of it"}
        if key not in message:
            raise VestalError(
                f"TorchServe cannot be started: {message.get('error', 'its guardian was killed')}"
            )
        return message[key]

    def _hear(self, seconds: float) -> dict[str, Any] | None:
        """The guardian's next message; {} when it is gone, None when it says nothing in time."""
        assert self._guardian.stdout is not None
        source = self._guardian.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._heard:
            readable, _, _ = select.select([source], [], [], max(deadline - time.monotonic(), 0))
            if not readable:
                return None
            piece = os.read(source, 4096)
            if not piece:
                return {}
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


def partial(ready_file: Path) -> Path:
    """Where a ready file is written before it gets its name."""
    return ready_file.with_name(f".{ready_file.name}.partial")


def _command(plan: Plan, folder: Path, effective: Path) -> list[str]:
    """As ts/model_server.py builds it, which has no way to say the working folder or the log's."""
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise VestalError("TorchServe is not installed: pip install 'vestal[serve]'")
    home = Path(spec.origin).parent.parent
    class_path = str(home / "ts" / "frontend" / "*")
    if plugins := plan.configuration.values.get("plugins_path"):
        class_path += f":{plugins}" if "*" in plugins else f":{plugins}/*"
    return [
        str(plan.java),
        f"-Dmodel_server_home={home}",
        *plan.configuration.java_options,
        f"-Dlog4j.configurationFile={LOG_CONFIG.as_uri()}",
        f"-Djava.io.tmpdir={folder}",
        # Else Java writes /tmp/hsperfdata_USER/PID, which kill -9 leaves behind.
        "-XX:-UsePerfData",
        *("-cp", class_path, "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable),
        *("-f", str(effective)),
        *("-s", str(plan.model_store)),
        # Snapshots are skipped anyway once there is a configuration file (#1542).
        "-ncs",
    ]


def _environment(inherited: Mapping[str, str], folder: Path, logs: Path) -> dict[str, str]:
    """The environment of TorchServe and its workers.

    PYTHONPATH and PYTHONHOME go: an archive stands alone, with what is installed beside TorchServe.
    TS_... go: TorchServe would take TS_CONFIG_FILE instead of our file, and others over it.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in {"PYTHONPATH", "PYTHONHOME"} and not name.startswith("TS_")
    }
    if not _has_utf8_locale(kept):
        kept["LC_ALL"] = "C.UTF-8"  # else Java cannot open a path that is not ASCII
    # A worker is `python` from PATH, whatever started the server.
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    places = {"TMPDIR": str(folder), "TEMP": str(folder)}
    return {
        **kept,
        **waiting(kept),
        **places,
        "PATH": path,
        "LOG_LOCATION": str(logs),
        "METRICS_LOCATION": str(logs),
    }


def _has_utf8_locale(environment: Mapping[str, str]) -> bool:
    """Whether a C program, as Java is one, gets UTF-8 from LC_ALL, LC_CTYPE, LANG and the others.

    One name that is not installed on this machine, LC_TIME's too, leaves it with ASCII.
    """
    script = "import locale; locale.setlocale(locale.LC_ALL, ''); "
    script += "print(locale.nl_langinfo(locale.CODESET))"
    asked = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={**environment, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip().upper().replace("-", "") == "UTF8"


def temp_folder() -> Path:
    """The system's temp folder; /tmp where its name is too long for TorchServe's sockets."""
    temp = Path(tempfile.gettempdir()).absolute()
    longest = temp / f"{guardian.PREFIX}12345678" / ".ts.sock.65535"
    return temp if len(os.fsencode(longest)) <= _SOCKET_PATH_LIMIT else Path("/tmp")  # noqa: S108


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
