"""Where tokens come from: an argument, VESTAL_TOKEN, or TorchServe's key file.

TorchServe writes `key_file.json` anew at every start, with one key for inference and one for
management; each is good for 60 minutes unless `token_expiration_min` says otherwise. How a key is
renewed stands in `vestal.client.renewal`. No token is ever part of a repr, a log line or an error's
text.
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

from vestal.client.errors import Facts, TokenError

Plane = Literal["inference", "management", "metrics"]
"""Which of TorchServe's three addresses a call goes to."""


NEW = 30.0
"""Seconds for which a key that was just made is not renewed; TorchServe's live a minute or more."""


class Tokens(ABC):
    """`origin` says where the tokens come from, for errors."""

    origin: str

    @abstractmethod
    def get(self, plane: Plane) -> str | None:
        """The token to send; None to send none. Raises TokenError where it cannot be read."""

    def accepted(self, plane: Plane) -> None:  # noqa: B027  most need not know
        """The server took the token."""

    def expired(self, plane: Plane) -> str | None:
        """What is known of the end of a token that was refused; None where it may be just wrong."""
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
        self._was_good: set[Plane] = set()

    def get(self, plane: Plane) -> str | None:
        return None if plane == "metrics" else self._token

    def accepted(self, plane: Plane) -> None:
        self._was_good.add(plane)

    def expired(self, plane: Plane) -> str | None:
        if plane not in self._was_good:
            return None
        return "it was good before: it has expired, or another one was made"


class KeyFile(Tokens):
    """TorchServe's key file, read again whenever it changes.

    `renewable`: False once the token API has turned out not to renew these very keys.
    `resting_until`: a moment of the monotonic clock; no renewal is tried before it.
    """

    def __init__(self, path: Path) -> None:
        self.origin = f"key file {path}"
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, Any] = {}
        self._ends: dict[str, float] = {}
        self._made: dict[str, float] = {}
        self._was_good: dict[Plane, str] = {}
        self.renewable = True
        self.resting_until = 0.0

    def __reduce__(self) -> tuple[type[KeyFile], tuple[Path]]:
        return KeyFile, (self.path,)

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

    @property
    def renewing_key(self) -> str | None:
        """What the token API asks for; None where the file does not hold it."""
        key = self._entry("API").get("key")
        return key if isinstance(key, str) and _SENDABLE.fullmatch(key) else None

    def seconds_left(self, plane: Plane) -> float | None:
        """Until the key expires, negative afterwards; None where the file does not say."""
        end = self._ends.get(plane)
        return None if end is None else end - time.time()

    def is_new(self, plane: Plane) -> bool:
        """Has the key been seen to change a moment ago? Then its end is not near, whatever a clock
        that runs ahead of the server's makes of it."""
        return time.monotonic() - self._made.get(plane, -math.inf) < NEW

    def look_again(self) -> None:
        """Forgets the time stamp: two writes within one tick of the clock have the same."""
        self._stamp = None
        self._refresh()

    def accepted(self, plane: Plane) -> None:
        if key := self._entry(plane).get("key"):
            self._was_good[plane] = key

    def has_ended(self, plane: Plane) -> bool:
        left = self.seconds_left(plane)
        return left is not None and left <= 0

    def expired(self, plane: Plane) -> str | None:
        if self.has_ended(plane):
            return f"it expired at {self._entry(plane)['expiration time']}"
        if self._was_good.get(plane) == self._entry(plane).get("key"):
            return "it was good before: another one was made, which this file does not hold"
        return None

    def _entry(self, plane: str) -> dict[str, Any]:
        entry = self._keys.get(plane)
        return entry if isinstance(entry, dict) else {}

    def _refresh(self) -> None:
        # Without a lock: threads that read at once read the same, and a lock could be held
        # by another thread when this process forks.
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            keys = json.loads(self.path.read_text(encoding="utf-8-sig"))
            if not isinstance(keys, dict):
                raise ValueError("not a JSON object")
        except (OSError, RecursionError, ValueError) as error:
            # TorchServe writes its key file in place: what was read before stays until the
            # new one is whole.
            if self._keys:
                return
            raise _unreadable(self.path, error) from None
        if keys != self._keys:
            self.renewable, self.resting_until = True, 0.0
        before, self._keys, self._stamp = self._keys, keys, stamp
        for plane in keys:
            if before and before.get(plane) != keys[plane]:
                self._made[plane] = time.monotonic()
        ends = {plane: _end(self._entry(plane).get("expiration time")) for plane in keys}
        self._ends = {plane: end for plane, end in ends.items() if end is not None}


def _end(when: object) -> float | None:
    """An expiration time as seconds since 1970."""
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
            Facts(hint="TorchServe writes it at its start into its working directory"),
        )
    # The text of a ValueError from json may quote the file, which holds the keys.
    reason = error.strerror if isinstance(error, OSError) else "it is no JSON object"
    return TokenError(f"the key file {path} cannot be read: {reason}")


_SENDABLE = re.compile(r"[\x21-\x7e]+")


def _checked(token: str, origin: str) -> str:
    """Refuses what no header can carry, before a library quotes it in its own error."""
    if not _SENDABLE.fullmatch(token):
        raise TokenError(
            f"the token from {origin} is empty, or has characters that no header can carry"
        )
    return token
