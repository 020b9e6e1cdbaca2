"""One archive, all checks, in the order in which TorchServe would meet their subjects."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from vestal.archive.sources import parse
from vestal.checking import running
from vestal.checking.bill import Bill, check_files, read_bill
from vestal.checking.config import check_config, read_config
from vestal.checking.handlers import Handler, check_handler, check_model_file
from vestal.checking.manifest import Manifest, read_manifest
from vestal.checking.options import check_options
from vestal.checking.packages import check_imports
from vestal.checking.pickles import check_pickles
from vestal.checking.weights import (
    check_built_on,
    check_labels,
    check_sample,
    check_weights,
)
from vestal.errors import UsageError
from vestal.mar.findings import Finding, Findings
from vestal.mar.index import read_index, sha256_of
from vestal.mar.names import is_junk
from vestal.mar.opening import Contents, opened
from vestal.project import Project

P = ParamSpec("P")
T = TypeVar("T")
Settings = tuple[Handler, dict[str, Any], str]  # whose, what, and the member that says it


@dataclass(frozen=True)
class Report:
    """What was found in an archive; `ran`: it was also loaded, in a process of its own."""

    archive: Path
    findings: tuple[Finding, ...]
    ran: bool

    @property
    def failed(self) -> bool:
        return Findings(list(self.findings)).failed


def check(
    archive: Path,
    *,
    run: bool = False,
    seconds: float = running.SECONDS,
    memory: int = running.MEMORY,
) -> Report:
    """Checks a .mar, a .tar.gz or a folder, and runs nothing of it unless told.

    Args:
        run: load it too, and ask it for its sample; only for an archive that you trust. An
            archive with errors is not run.
        seconds, memory: limits of that run, memory in bytes.

    Raises:
        UsageError: no such file or folder.
        VestalError: no room to unpack it.
    """
    if not archive.exists():
        raise UsageError(f"no archive {archive}: give a .mar, a .tar.gz or a folder")
    found = Findings()
    ran = False
    with opened(archive, found) as contents:
        if contents is not None:
            bill, settings = _read_all(contents, found)
            ran = run and not found.failed
            if ran:
                if bill is not None:
                    _tried(found, check_built_on, bill, found)
                # A handler checks its options when it loads.
                found.items += running.run(contents, seconds=seconds, memory=memory)
            elif settings is not None:
                _tried(found, check_options, contents, *settings, found)
    order = sorted(found.items, key=lambda one: ("error", "warning", "note").index(one.severity))
    return Report(archive, tuple(dict.fromkeys(order)), ran)


def is_ours(project: Project, archive: Path) -> bool:
    """Whether the project's own index has an archive with these bytes."""
    if not archive.is_file():
        return False
    known = {entry.get("sha256") for entry in read_index(project.model_store).values()}
    return bool(known) and sha256_of(archive) in known


def _read_all(contents: Contents, found: Findings) -> tuple[Bill | None, Settings | None]:
    """Every check that only reads; gives what the next ones need."""
    trees = _tried(found, _trees, contents, found) or {}
    bill = _tried(found, read_bill, contents, found)
    if bill is not None:
        _tried(found, check_files, contents, bill, found)
    manifest = _tried(found, read_manifest, contents, found)
    handler = _tried(found, check_handler, contents, manifest, trees, found) if manifest else None
    stock = handler is not None and handler.stock
    name = manifest.handler if manifest else ""
    _tried(found, check_labels, contents, name, stock or bill is not None, found)
    _tried(found, check_sample, contents, found)
    refused = _tensors_only(manifest, handler, bill)
    _tried(found, check_pickles, contents, found, refused=refused)
    if manifest is None or handler is None:
        return bill, None
    if stock:
        _tried(found, check_model_file, contents, manifest, trees, found)
    _tried(found, check_weights, contents, manifest, handler, bill, found)
    _tried(found, check_imports, contents, manifest, handler, trees, bill, found)
    if manifest.config is None:
        return bill, None
    config = _tried(found, read_config, contents, manifest.config, found) or {}
    known = handler.file is None or handler.task is not None
    _tried(found, check_config, config, manifest.config, found, free_keys=not known)
    return bill, (handler, config, manifest.config)


def _tried(
    found: Findings, step: Callable[P, T], *arguments: P.args, **named: P.kwargs
) -> T | None:
    """The net: what a step did not expect is a finding, and the other steps go on."""
    try:
        return step(*arguments, **named)
    except Exception as error:
        name, what = step.__name__.strip("_"), f"{type(error).__name__}: {error}"
        found.error(
            "unread",
            "",
            f"{name} of this check cannot go on with what stands there ({what})",
            "look for what is odd about it; and tell Vestal's makers, whose check should say more",
        )
        return None


def _tensors_only(
    manifest: Manifest | None, handler: Handler | None, bill: Bill | None
) -> str | None:
    """The member that is loaded with torch.load, which takes tensors and no other classes."""
    if manifest is None or handler is None or manifest.serialized is None:
        return None
    if handler.stock:
        return manifest.serialized if manifest.model_file else None
    eager = handler.task is not None and manifest.serialized.endswith(".pth")
    return manifest.serialized if eager or (bill and bill.engine == "eager") else None


def _trees(contents: Contents, found: Findings) -> dict[str, ast.Module]:
    """The syntax trees of all .py members that have one."""
    trees = {}
    for name in contents.names:
        if not name.endswith(".py") or is_junk(name):
            continue
        try:
            trees[name] = parse(contents.bytes(name))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            found.error(
                "syntax",
                f"{name}:{line}" if line else name,
                f"Python cannot compile it: {getattr(error, 'msg', None) or error}",
                "correct it, and pack again",
            )
    return trees
