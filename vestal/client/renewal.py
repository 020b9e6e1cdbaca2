"""The token of an attempt: renewed before it expires, looked up again when it was refused.

TorchServe's token API (`GET /token?type=inference` at the management address, with the API key of
the X"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vestal.client.errors import TokenError
from vestal.client.steps import Pause, Reply, Request, Steps
from vestal.client.tokens import KeyFile, Plane

if TYPE_CHECKING:
    from vestal.client.context import Context

MARGIN = 10.0
"""Seconds before its expiry that a key is renewed: time for another process to try it too."""
GRACE = 0.3
"""Seconds that a key file may be behind its server, or half written, without anybody's lock."""
PATIENCE = 15.0
"""Seconds that a call waits for a new key, at most; its deadline may be nearer."""
LIMIT = 3.0
"""Seconds that the token API has; it answers in a few milliseconds or not at all."""
POLL = 0.02


def token(context: Context, plane: Plane) -> Steps[str | None]:
    """The token to send; raises TokenError where it cannot be read."""
    tokens = context.tokens
    if not isinstance(tokens, KeyFile):
        return tokens.get(plane)
    found = yield from _read(tokens, plane)
    end = time.monotonic() + min(PATIENCE, context.deadline.remaining())
    while _due(context, plane):
        done = yield from _renew(context, tokens, plane)
        found = tokens.get(plane)
        if done or not _has_expired(tokens, plane) or time.monotonic() >= end:
            break
        yield Pause(POLL)  # another process is asking for the next one
    return found


def another(context: Context, plane: Plane, refused: set[str | None]) -> Steps[bool]:
    """After a token was refused: is there one that was not?"""
    tokens = context.tokens
    if not isinstance(tokens, KeyFile):
        return False
    started = time.monotonic()
    while True:
        tokens.look_again()
        due = _due(context, plane)
        if tokens.get(plane) in refused and due:
            yield from _renew(context, tokens, plane)
        if tokens.get(plane) not in refused:
            return True
        waited = time.monotonic() - started
        hopeful = waited < PATIENCE if due or _locked(tokens) else waited < GRACE
        if context.deadline.expired or not hopeful:
            return False
        yield Pause(POLL)


def _read(tokens: KeyFile, plane: Plane) -> Steps[str | None]:
    end = time.monotonic() + GRACE
    while True:
        try:
            return tokens.get(plane)
        except TokenError:
            if time.monotonic() >= end or not tokens.path.exists():
                raise
        yield Pause(POLL)


def _has_expired(tokens: KeyFile, plane: Plane) -> bool:
    left = tokens.seconds_left(plane)
    return left is not None and left <= 0


def _due(context: Context, plane: Plane) -> bool:
    """Is the key about to expire, and can it be renewed here?"""
    tokens = context.tokens
    assert isinstance(tokens, KeyFile)
    left = tokens.seconds_left(plane)
    return (
        left is not None
        and left < MARGIN
        and tokens.renewable
        and tokens.renewing_key is not None
        and context.addresses.management is not None
    )


def _renew(context: Context, tokens: KeyFile, plane: Plane) -> Steps[bool]:
    """Is the matter settled, by a new key or by a refusal? False: somebody else is at it."""
    with _lock(tokens.path) as held:
        if held is None:
            tokens.renewable = False  # no lock can be had there, so nothing may be renewed
            return True
        if not held:
            return False
        tokens.look_again()
        if not _due(context, plane):
            return True
        before = tokens.get(plane)
        request = Request(
            "GET",
            context.addresses.of("management"),
            f"/token?type={plane}",
            {"Authorization": f"Bearer {tokens.renewing_key}"},
            limit=min(LIMIT, context.deadline.remaining() / 2),
        )
        outcome = yield request
        tokens.look_again()
        if isinstance(outcome, Reply) and tokens.get(plane) == before:
            # It said no, or it keeps its keys elsewhere and this file is a copy of them.
            tokens.renewable = False
        return True


@contextmanager
def _lock(key_file: Path) -> Iterator[bool | None]:
    """Is the lock held here? None: it cannot be had at all (no such folder, no permission)."""
    try:
        import fcntl

        descriptor = os.open(_lock_file(key_file), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (ImportError, OSError):
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            # Said, since a process forked meanwhile has the descriptor too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _lock_file(key_file: Path) -> Path:
    return key_file.with_name(key_file.name + ".lock")


def _locked(tokens: KeyFile) -> bool:
    if not tokens.renewable:
        return False
    with _lock(tokens.path) as held:
        return held is False
