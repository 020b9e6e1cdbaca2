"""The token of the keeper's API: `.vestal/keeper_token`, readable only by its owner."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from vestal.project import Project


def token_file(project: Project) -> Path:
    return project.state / "keeper_token"


def write_token(project: Project, token: str | None = None) -> str:
    """Write a token (by default, a new one; mode 0600) atomically, and return it.

    Raises:
        OSError: the file cannot be written.
    """
    file, token = token_file(project), token or secrets.token_urlsafe(32)
    new = file.with_name(f".{file.name}.partial")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(token)
    new.replace(file)
    return token


def read_token(project: Project) -> str | None:
    """Return the token of the running server; None if there is none."""
    try:
        return token_file(project).read_text(encoding="ascii").strip() or None
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None


def remove_token(project: Project) -> None:
    """Remove the token file; a second call does nothing."""
    file = token_file(project)
    for path in (file, file.with_name(f".{file.name}.partial")):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
