"""Where tokens come from: an argument, VESTAL_TOKEN, or TorchServe's key file.

TorchServe writes `key_file.json` anew at every start, with one key for inference and one for
management; each is good for 60 minutes unless `token_expiration_min` says otherwise. No token is
ever part of a repr, a log line or an error's text.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from vestal.client.errors import Facts, TokenError

Plane = Literal["inference", "management", "metrics"]
"""Which of TorchServe's three addresses a call goes to."""


class Tokens(ABC):
    """`origin` says where the tokens come from, for errors."""

    origin: str

    @abstractmethod
    def get(self, plane: Plane) -> str | None:
        """The token to send; None to send none. Raises TokenError where it cannot be read."""

    def renew(self, plane: Plane, refused: str | None) -> bool:
        """Called once when the server refused a token: is there another one to try?"""
        return False

    def expired(self, plane: Plane) -> str | None:
        """When the token expired by its own account; None if it did not, or nobody knows."""
        return None

    def __repr__(self) -> str:
        return f"<tokens from {self.origin}>"


class NoToken(Tokens):
    origin = "nowhere"

    def __repr__(self) -> str:
        return "<no token>"

    def get(self, plane: Plane) -> str | None:
        return None


class FixedToken(Tokens):
    """One token for inference and management alike."""

    def __init__(self, token: str, origin: str) -> None:
        self.origin = origin
        self._token = _checked(token.strip(), origin)

    def get(self, plane: Plane) -> str | None:
        return None if plane == "metrics" else self._token


class KeyFile(Tokens):
    """TorchServe's key file, read again whenever it changes.

    Renewal through the token API (which voids the key for everyone else, so that one process must
    do it for all, under a lock beside the file) belongs into `renew`.
    """

    def __init__(self, path: Path) -> None:
        self.origin = f"key file {path}"
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, Any] = {}

    def get(self, plane: Plane) -> str | None:
        if plane == "metrics":
            return None
        self._refresh()
        token = self._entry(plane).get("key")
        if not isinstance(token, str):
            raise TokenError(
                f"the {self.origin} has no {plane} key",
                Facts(hint="It must be the key_file.json that TorchServe wrote at its start"),
            )
        return _checked(token, self.origin)

    def renew(self, plane: Plane, refused: str | None) -> bool:
        # Two writes within one tick of the file system's clock have one time stamp.
        self._stamp = None
        return self.get(plane) != refused

    def expired(self, plane: Plane) -> str | None:
        when = self._entry(plane).get("expiration time")
        if not isinstance(when, str):
            return None
        try:
            # Java writes nanoseconds, which Python 3.11 does not read.
            expiry = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", when))
        except ValueError:
            return None
        if expiry.tzinfo is None:
            expiry = expiry.replace(tzinfo=UTC)
        return when if expiry <= datetime.now(UTC) else None

    def _entry(self, plane: Plane) -> dict[str, Any]:
        entry = self._keys.get(plane)
        return entry if isinstance(entry, dict) else {}

    def _refresh(self) -> None:
        # Without a lock: threads that read at once read the same, and a lock could be held
        # by another thread when this process forks.
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            keys = json.loads(self._path.read_text(encoding="utf-8"))
            if not isinstance(keys, dict):
                raise ValueError("not a JSON object")
        except (OSError, ValueError) as error:
            # TorchServe writes its key file in place: what was read before stays until the
            # new one is whole.
            if self._keys:
                return
            raise _unreadable(self._path, error) from None
        self._keys, self._stamp = keys, stamp


def _unreadable(path: Path, error: Exception) -> TokenError:
    if isinstance(error, FileNotFoundError):
        return TokenError(
            f"no key file at {path}",
            Facts(hint="TorchServe writes it at its start into its working directory"),
        )
    # The text of a ValueError from json may quote the file, which holds the keys.
    reason = error.strerror if isinstance(error, OSError) else "it is no JSON object"
    return TokenError(f"the key file {path} cannot be read: {reason}")


def _checked(token: str, origin: str) -> str:
    """Refuses what no header can carry, before a library quotes it in its own error."""
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise TokenError(
            f"the token from {origin} is empty, or has characters that no header can carry"
        )
    return token
