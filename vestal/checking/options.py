"""Options under `handler:`, checked by the handler's own dataclass of the installed
`vestal_handlers`; the archive's copy is compared, not imported."""

from __future__ import annotations

import importlib
from dataclasses import MISSING, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vestal.checking.handlers import Handler
from vestal.mar.findings import Findings
from vestal.mar.opening import Contents


def check_options(
    contents: Contents, handler: Handler, config: dict[str, Any], name: str, found: Findings
) -> None:
    """One finding for every option that the handler would refuse; all of them fail the load."""
    if handler.task is None or "handler" not in config:
        return
    from vestal_handlers.options import OptionError, read_options

    module, kind = handler.task
    try:
        imported = importlib.import_module(module)
    except ImportError:
        return  # a task that this Vestal does not know; its imports are checked elsewhere
    options = getattr(getattr(imported, kind, None), "options_type", None)
    if options is None:
        return
    # Another Vestal packed it: its options may be others, and its own copy of the class rules.
    add = found.error if _same_source(contents, module) else found.warning
    given = config["handler"]
    needed = {
        item.name
        for item in fields(options)
        if item.default is MISSING and item.default_factory is MISSING
    }
    parts: list[Any] = [given]
    if isinstance(given, dict):
        base = {key: value for key, value in given.items() if key in needed}
        parts = [base, *({**base, key: given[key]} for key in given if key not in needed)]
    told = set()
    for part in parts:
        try:
            read_options(options, part)
        except OptionError as error:
            told.add(str(error))
    for text in sorted(told):
        add("option", name, f"{text}: the model does not load", "correct it and pack again")


def _same_source(contents: Contents, module: str) -> bool:
    for part in (module, "vestal_handlers.options", "vestal_handlers.base"):
        spec = find_spec(part)
        if spec is None or spec.origin is None:
            return False
        is_package = spec.submodule_search_locations is not None
        member = f"{part.replace('.', '/')}{'/__init__' if is_package else ''}.py"
        if member not in contents:
            return False
        if Path(spec.origin).read_bytes() != contents.path(member).read_bytes():
            return False
    return True
