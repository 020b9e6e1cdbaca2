"""Check the options under `handler:` with the options dataclass of the installed handlers.

The archive's own copy of `vestal_handlers` is compared with it, not imported.
"""

from __future__ import annotations

import importlib
from dataclasses import MISSING, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vestal.checking.handlers import Handler
from vestal.mar.findings import Check, Finding
from vestal.mar.opening import Contents


def check_options(
    contents: Contents, handler: Handler, settings: dict[str, Any], name: str
) -> Check[None]:
    """Report every option that the handler rejects; `name` is the member with the settings."""
    if handler.task is None or "handler" not in settings:
        return
    from vestal_handlers.options import OptionError, read_options

    module, kind = handler.task
    try:
        imported = importlib.import_module(module)
    except ImportError:
        return  # a task that this Vestal does not have
    options_type = getattr(getattr(imported, kind, None), "options_type", None)
    if options_type is None:
        return
    # Another Vestal may have other options, and the archive's copy of the class decides.
    add = Finding.error if _same_source(contents, module) else Finding.warning
    options = settings["handler"]
    required = {
        item.name
        for item in fields(options_type)
        if item.default is MISSING and item.default_factory is MISSING
    }
    parts: list[Any] = [options]
    if isinstance(options, dict):  # one at a time: reading stops at the first error
        base = {key: value for key, value in options.items() if key in required}
        parts = [base, *({**base, key: options[key]} for key in options if key not in required)]
    messages = set()
    for part in parts:
        try:
            read_options(options_type, part)
        except OptionError as error:
            messages.add(str(error))
    for message in sorted(messages):
        meaning = f"{message}: the model cannot be loaded"
        yield add("option", name, meaning, "correct it and pack the archive again")


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
