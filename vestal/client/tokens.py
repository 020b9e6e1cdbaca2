"""Sources of tokens: an argument, VESTAL_TOKEN, or TorchServe's key file.

When it starts, TorchServe writes `key_file.json` with one key for inference and one for management,
each valid for 60 minutes or `token_expiration_min`. `vestal.client.renewal` renews the keys.
Tokens never appear in a repr, a log line or an error message.
"""

from __future__ import annotations

import json
import math
import re
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from vestal.client.errors import TokenError

Api = Literal["inference", "management", "metrics"]
"""TorchServe's three APIs, each with its own address."""


NEW = 30.0
"""Seconds for which a key that was just made is not renewed; TorchServe's live a minute or more."""


class Tokens(ABC):
    """`origin`: the source of the tokens, for errors."""

    origin: str

    @abstractmethod
    def get(self, api: Api) -> str | None:
        """Return the token to send, or None. Raises TokenError if it cannot be read."""

    def accepted(self, api: Api) -> None:  # noqa: B027  optional
        """Record that the server accepted the token."""

    def expired(self, api: Api) -> str | None:
        """Return why a refused token expired; None if it may just be wrong."""
        return None

    def __repr__(self) -> str:
        return f"<tokens from {self.origin}>"


class NoToken(Tokens):
    origin = "nowhere"

    def __repr__(self) -> str:
        return "<no token>"

    def get(self, api: Api) -> str | None:
        return None


class FixedToken(Tokens):
    """The same token for inference and management."""

    def __init__(self, token: str, origin: str) -> None:
        self.origin = origin
        self._token = _checked(token.strip(), origin)
        self._was_good: set[Api] = set()

    def get(self, api: Api) -> str | None:
        return None if api == "metrics" else self._token

    def accepted(self, api: Api) -> None:
        self._was_good.add(api)

    def expired(self, api: Api) -> str | None:
        if api not in self._was_good:
            return None
        return "it was valid before: it has expired, or was replaced by a new one"


class KeyFile(Tokens):
    """TorchServe's key file, read again whenever it changes.

    `renewable`: False after the token API did not renew these keys.
    `no_renewal_before`: monotonic time.
    """

    def __init__(self, path: Path) -> None:
        self.origin = f"key file {path}"
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, Any] = {}
        self._ends: dict[str, float] = {}
        self._made: dict[str, float] = {}
        self._was_good: dict[Api, str] = {}
        self.renewable = True
        self.no_renewal_before = 0.0

    def __reduce__(self) -> tuple[type[KeyFile], tuple[Path]]:
        return KeyFile, (self.path,)

    def get(self, api: Api) -> str | None:
        if api == "metrics":
            return None
        self._refresh()
        token = self._entry(api).get("key")
        if not isinstance(token, str):
            raise TokenError(
                f"the {self.origin} has no {api} key",
                hint="It must be the key_file.json that TorchServe wrote at its start",
            )
        return _checked(token, self.origin)

    @property
    def renewing_key(self) -> str | None:
        """The key that the token API requires; None if the file does not have it."""
        key = self._entry("API").get("key")
        return key if isinstance(key, str) and _SENDABLE.fullmatch(key) else None

    def seconds_left(self, api: Api) -> float | None:
        """Return the seconds until the key expires, negative afterwards; None if unknown."""
        end = self._ends.get(api)
        return None if end is None else end - time.time()

    def is_new(self, api: Api) -> bool:
        """Whether the key has just changed, so it is valid whatever the clock of this machine."""
        return time.monotonic() - self._made.get(api, -math.inf) < NEW

    def reload(self) -> None:
        """Read the file even if its time stamp is the same, as after two quick writes."""
        self._stamp = None
        self._refresh()

    def accepted(self, api: Api) -> None:
        if key := self._entry(api).get("key"):
            self._was_good[api] = key

    def has_ended(self, api: Api) -> bool:
        left = self.seconds_left(api)
        return left is not None and left <= 0

    def expired(self, api: Api) -> str | None:
        if self.has_ended(api):
            return f"it expired at {self._entry(api)['expiration time']}"
        if self._was_good.get(api) == self._entry(api).get("key"):
            return "it was valid before: it was replaced by a new one, which is not in this file"
        return None

    def _entry(self, api: str) -> dict[str, Any]:
        entry = self._keys.get(api)
        return entry if isinstance(entry, dict) else {}

    def _refresh(self) -> None:
        # Without a lock, which a fork could copy locked: concurrent reads have the same result.
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            keys = json.loads(self.path.read_text(encoding="utf-8-sig"))
            if not isinstance(keys, dict):
                raise ValueError("not a JSON object")
        except (OSError, RecursionError, ValueError) as error:
            # TorchServe writes the file in place: keep the previous keys until it is complete.
            if self._keys:
                return
            raise _unreadable(self.path, error) from None
        if keys != self._keys:
            self.renewable, self.no_renewal_before = True, 0.0
        before, self._keys, self._stamp = self._keys, keys, stamp
        for api in keys:
            if before and before.get(api) != keys[api]:
                self._made[api] = time.monotonic()
        ends = {api: _end(self._entry(api).get("expiration time")) for api in keys}
        self._ends = {api: end for api, end in ends.items() if end is not None}


def _end(when: object) -> float | None:
    """Return an expiration time as seconds since 1970."""
    if not isinstance(when, str):
        return None
    try:
        # Java writes nanoseconds, which Python 3.11 does not read.
        expiry = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", when))
    except ValueError:
        return None
    return (expiry if expiry.tzinfo is not None else expiry.replace(tzinfo=UTC)).timestamp()


def _unreadable(path: Path, error: Exception) -> TokenError:
    if isinstance(error, FileNotFoundError):
        return TokenError(
            f"no key file at {path}",
            hint="TorchServe writes it at its start into its working directory",
        )
    # The message of a ValueError from json may quote the keys.
    reason = error.strerror if isinstance(error, OSError) else "it is not a JSON object"
    return TokenError(f"the key file {path} cannot be read: {reason}")


_SENDABLE = re.compile(r"[\x21-\x7e]+")


def _checked(token: str, origin: str) -> str:
    """Raise TokenError for an invalid header value, before a library quotes the token."""
    if not _SENDABLE.fullmatch(token):
        raise TokenError(
            f"the token from {origin} is empty or has characters that a header cannot have"
        )
    return token
