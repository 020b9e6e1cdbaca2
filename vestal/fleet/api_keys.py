"""The file of the gateway's API keys.

    shop: {key: q7Tz..., models: [mnist]}
    batch: {key: Vb2L...}

Envoy compares keys with a list in its configuration: of its filters, `basic_auth` alone accepts
hashes (SHA-1), but clients must then send a user name, and it has no permissions per model;
`ext_authz` would ask the keeper about every request, so that no prediction is possible while the
keeper restarts. Keys are therefore stored as they are, in a file that others cannot read.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

from vestal.errors import UsageError
from vestal.fleet.serving_tree import Tree, read_tree
from vestal.gateway.clients import ApiClient

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_KEY = re.compile(r"[!-~]{16,500}")
_NEW_KEY = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def read_clients(file: Path) -> tuple[ApiClient, ...]:
    """Read the file.

    Raises:
        UsageError: it is missing, invalid, or readable for every user; one line for each problem.
    """
    tree = read_tree(file)
    if file.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise UsageError(f"{file} is readable for every user: run `chmod 600 {file}`")
    if not isinstance(tree.value, dict) or not tree.value:
        tree.report((), "expected a name and a key for each client, such as `shop: {key: ...}`")
        tree.raise_problems()
    clients = [_client(tree, name, entry) for name, entry in tree.value.items()]
    first: dict[str, str] = {}
    for each in clients:
        if each.key and first.setdefault(each.key, each.name) != each.name:
            tree.report((each.name, "key"), f"{first[each.key]} has the same key")
    tree.raise_problems()
    return tuple(clients)


def _client(tree: Tree, name: str, entry: Any) -> ApiClient:
    if not _NAME.fullmatch(name):
        tree.report((name,), "expected a name of letters, digits, `_`, `-` and `.`")
    if not isinstance(entry, dict):
        tree.report((name,), "expected `{key: ..., models: [...]}`; `models` is optional")
        return ApiClient(name, "")
    for unknown in entry.keys() - {"key", "models"}:
        tree.report((name, unknown), "unknown key; expected one of key, models")
    key, models = entry.get("key"), entry.get("models")
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        # The message does not contain the key: it may end up in a log.
        tree.report((name, "key"), f"expected 16 to 500 characters without spaces ({_NEW_KEY})")
        key = ""
    if models is not None and not (
        isinstance(models, list) and all(isinstance(each, str) for each in models)
    ):
        tree.report((name, "models"), "expected a list of names of models")
        models = None
    return ApiClient(name, key, None if models is None else frozenset(models))
