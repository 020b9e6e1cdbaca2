"""Start and stop a TorchServe process, through its guardian."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vestal.configuration.config import LOG_CONFIG, Configuration
from vestal.configuration.ports import Endpoint
from vestal.errors import VestalError
from vestal.openmp import passive_wait_variables
from vestal.project import Project
from vestal.server.guarded import GuardedProcess
from vestal_handlers.digests import FOLDER_VARIABLE
from vestal_handlers.threads import WORKERS_VARIABLE


@dataclass(frozen=True)
class LaunchOptions:
    """Everything that a start needs. `state_files`: removed at the end."""

    project: Project
    configuration: Configuration
    endpoints: list[Endpoint]
    model_store: Path
    state_files: Sequence[Path]
    java: Path

    @property
    def key_file(self) -> Path | None:
        """TorchServe's key file; None if it requires no tokens."""
        return self.project.key_file if self.configuration.tokens else None


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
        state_files = [*options.state_files, *map(temporary_path, options.state_files)]
        keys = project.key_file
        renewal_lock = keys.with_name(f"{keys.name}.lock")  # created by clients
        files = [str(keys), str(renewal_lock), *map(str, state_files)]
        self._process = GuardedProcess("TorchServe", files, lock)
        try:
            folder = self._process.folder
            effective = folder / "config.properties"
            text = options.configuration.effective(options.endpoints, options.model_store)
            effective.write_text(text, encoding="latin-1")
            self._process.start(
                _command(options, folder, effective),
                {
                    **_environment(os.environ, folder, project.logs),
                    FOLDER_VARIABLE: str(project.shadow.absolute()),
                    WORKERS_VARIABLE: str(project.worker_counts.absolute()),
                },
                cwd=project.state,  # TorchServe writes its key file into it
                output=project.logs / "console.log",
            )
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Process id of TorchServe."""
        return self._process.pid

    def ended(self, seconds: float) -> str | None:
        """Wait for the end; return how it ended (`exit code 1`), or None at the time limit."""
        return self._process.ended(seconds)

    def stop(self) -> None:
        """End all processes and remove all files; a second call does nothing."""
        self._process.stop()


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
