"""Run all checks of an archive, in the order in which TorchServe would meet the problems."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vestal.archive.sources import parse
from vestal.checking import running
from vestal.checking.bill import Bill, check_files, check_optimization, read_bill
from vestal.checking.config import check_config, read_config
from vestal.checking.handlers import Handler, check_handler
from vestal.checking.imports import check_imports, check_shadowing
from vestal.checking.manifest import check_manifest
from vestal.checking.options import check_options
from vestal.checking.pickles import check_pickles
from vestal.checking.weights import (
    check_built_on,
    check_labels,
    check_native_code,
    check_sample,
    check_weights,
)
from vestal.errors import UsageError
from vestal.mar.findings import Check, Finding, Severity, collect, has_errors
from vestal.mar.index import read_index, sha256_of
from vestal.mar.manifest import Manifest
from vestal.mar.names import is_junk
from vestal.mar.opening import Contents, open_archive
from vestal.project import Project

T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """The findings in an archive; `ran`: it was also loaded, in a process of its own."""

    archive: Path
    findings: tuple[Finding, ...]
    ran: bool

    @property
    def failed(self) -> bool:
        return has_errors(self.findings)


@dataclass(frozen=True)
class _Parts:
    """What the static checks have read, for the checks after them."""

    bill: Bill | None
    handler: Handler | None
    settings: dict[str, Any]
    settings_file: str | None


def check(
    archive: Path,
    *,
    run: bool = False,
    seconds: float = running.SECONDS,
    memory: int = running.MEMORY,
) -> Report:
    """Check a .mar, a .tar.gz or a folder; its code runs only with `run`.

    Args:
        run: also load it and predict its sample, unless it has errors; only for an archive that
            you trust.
        seconds, memory: limits of that trial run, memory in bytes.

    Raises:
        UsageError: no such file or folder.
        VestalError: the disk has no room to unpack it.
    """
    if not archive.exists():
        raise UsageError(f"no archive {archive}: pass a .mar, a .tar.gz or a folder")
    ran = False
    with open_archive(archive) as (contents, findings):
        if contents is not None:
            static, parts = collect(_read_all(contents))
            findings += static
            ran = run and not has_errors(findings)
            if ran:
                findings += _try_out(contents, parts, seconds, memory)
            elif parts.handler and parts.settings_file:
                arguments = parts.handler, parts.settings, parts.settings_file
                findings += _attempt(check_options(contents, *arguments))
    order = [Severity.ERROR, Severity.WARNING, Severity.NOTE]
    findings.sort(key=lambda finding: order.index(finding.severity))
    return Report(archive, tuple(dict.fromkeys(findings)), ran)


def is_ours(project: Project, archive: Path) -> bool:
    """Whether the project's own index lists an archive with this sha256."""
    if not archive.is_file():
        return False
    known = {entry.get("sha256") for entry in read_index(project.model_store).values()}
    return bool(known) and sha256_of(archive) in known


def _try_out(contents: Contents, parts: _Parts, seconds: float, memory: int) -> list[Finding]:
    """Load the archive; its handler checks its options itself."""
    findings = list(_attempt(check_built_on(parts.bill))) if parts.bill else []
    return findings + running.run(contents, seconds=seconds, memory=memory)


def _read_all(contents: Contents) -> Check[_Parts]:
    """Run every check that only reads."""
    trees = (yield from _attempt(_parse_sources(contents))) or {}
    bill = yield from _attempt(read_bill(contents))
    if bill is not None:
        yield from _attempt(check_files(contents, bill))
        yield from _attempt(check_optimization(bill))
    manifest = (yield from _attempt(check_manifest(contents))) or Manifest()
    handler = None
    if manifest.handler:
        handler = yield from _attempt(check_handler(contents, manifest, trees))
    stock = handler is not None and handler.stock
    yield from _attempt(check_labels(contents, manifest.handler, stock or bill is not None))
    yield from _attempt(check_sample(contents))
    yield from _attempt(check_pickles(contents, _tensors_only(manifest, handler, bill)))
    yield from _attempt(check_native_code(contents))
    if handler is None:
        return _Parts(bill, None, {}, None)
    yield from _attempt(check_weights(contents, manifest, handler, bill))
    yield from _attempt(check_imports(contents, manifest, handler, trees, bill))
    yield from _attempt(check_shadowing(contents, manifest, trees))
    if manifest.config_file is None or manifest.config_file not in contents:
        return _Parts(bill, handler, {}, None)
    settings = (yield from _attempt(read_config(contents, manifest.config_file))) or {}
    custom = handler.file is not None and handler.task is None
    yield from _attempt(check_config(settings, manifest.config_file, custom=custom))
    return _Parts(bill, handler, settings, manifest.config_file)


def _attempt(step: Check[T]) -> Check[T | None]:
    """Turn an unexpected exception into a finding, so that the other checks continue."""
    try:
        return (yield from step)
    except Exception as error:
        name = getattr(step, "__name__", "a check")
        yield Finding.error(
            "unread",
            "",
            f"{name} failed unexpectedly ({type(error).__name__}: {error})",
            "look for something unusual in the archive; this is a bug in vestal check, so please "
            "report it",
        )
        return None


def _tensors_only(manifest: Manifest, handler: Handler | None, bill: Bill | None) -> str | None:
    """The member that is loaded with torch.load, which accepts only tensors."""
    artifact = manifest.serialized_file
    if handler is None or artifact is None:
        return None
    if handler.stock:
        return artifact if manifest.model_file else None
    eager = handler.task is not None and artifact.endswith(".pth")
    return artifact if eager or (bill and bill.engine == "eager") else None


def _parse_sources(contents: Contents) -> Check[dict[str, ast.Module]]:
    """The syntax trees of all Python members that compile."""
    trees = {}
    for name in contents.names:
        if not name.endswith(".py") or is_junk(name):
            continue
        try:
            trees[name] = parse(contents.bytes(name))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            yield Finding.error(
                "syntax",
                f"{name}:{line}" if line else name,
                f"Python cannot compile it: {getattr(error, 'msg', None) or error}",
                "correct it and pack the archive again",
            )
    return trees
