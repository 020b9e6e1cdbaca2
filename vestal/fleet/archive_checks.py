"""Check archives before TorchServe gets them, as `vestal check --no-run` does.

A check imports torch, which takes seconds of CPU time and half a gigabyte, so it has a process of
its own, which uses only CPU time that nobody else needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vestal.children import parents_pid
from vestal.fleet.failures import VersionFailed
from vestal.fleet.priority import is_reversible, restore, yield_to_others
from vestal.mar.manifest import read_manifest

_POLL_SECONDS = 0.1
_END_SECONDS = 5.0
_PATIENCE_SECONDS = 20.0
"""Time after which a check gets its share of the cores, so that it ends on a busy machine."""


class ArchiveChecks:
    """Remembers the archives that have passed, by their sha256."""

    def __init__(self) -> None:
        self._passed: set[str] = set()

    def run(self, archive: Path, sha256: str, version: str, interrupt: Callable[[], None]) -> None:
        """Check an archive.

        Args:
            version: the desired one.
            interrupt: raises an exception if the check must end.

        Raises:
            VersionFailed: it has an error, or another version.
        """
        if sha256 in self._passed:
            return
        packed = read_manifest(archive).version
        if packed != version:
            raise VersionFailed(f"{archive} has version {packed}, and {version} is desired")
        errors = [each for each in _findings(archive, interrupt) if each["severity"] == "error"]
        if errors:
            more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
            where = f"{errors[0]['where']}: " if errors[0]["where"] else ""
            raise VersionFailed(
                f"{archive.name} cannot be served: {where}{errors[0]['meaning']}{more}. "
                f"`vestal check {archive}` lists what to do"
            )
        self._passed.add(sha256)


def _findings(archive: Path, interrupt: Callable[[], None]) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "vestal", "check", "--no-run", "--json"]
    lowered_until = time.monotonic() + _PATIENCE_SECONDS
    with subprocess.Popen(
        [*command, str(archive.absolute())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **parents_pid()},
    ) as process:
        if is_reversible():
            yield_to_others(process.pid)
        try:
            output, errors = _wait(process, interrupt, lowered_until)
        finally:
            _end(process)
    try:
        (report,) = json.loads(output)
    except ValueError:  # it could not read the archive
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1].removeprefix("vestal: ") if lines else f"exit code {process.returncode}"
        raise VersionFailed(f"{archive.name} cannot be checked: {reason}") from None
    findings: list[dict[str, Any]] = report["findings"]
    return findings


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a check that still runs; it removes the folder to which it unpacked the archive."""
    if process.poll() is None:
        if is_reversible():
            restore(process.pid)
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(
    process: subprocess.Popen[bytes], interrupt: Callable[[], None], lowered_until: float
) -> tuple[bytes, bytes]:
    while True:
        try:
            return process.communicate(timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            interrupt()
            if time.monotonic() > lowered_until and is_reversible():
                restore(process.pid)
