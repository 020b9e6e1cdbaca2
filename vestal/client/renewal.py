"""The token of an attempt: renewed before it expires, looked up again when it was refused.

TorchServe's token API (`GET /token?type=inference` at the management address, with the API key of
the key file) makes a new key and writes it into the file. The old one is void at once, for all who
have it. So a key is renewed by one process only, under a lock on `key_file.json.lock` beside the
file, and not before the last 10 seconds of its life. Who finds the lock taken goes on with the old
key while it lives, and waits for the new one after that; a key that is refused is looked up in the
file again. A renewal that failed is left alone for a while; one that was refused, or that changed
nothing in the file (a copy), is not tried again until the file changes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vestal.client.errors import TokenError
from vestal.client.flow import Flow, HTTPRequest, HTTPResponse, Pause
from vestal.client.tokens import Api, KeyFile
from vestal.files.locks import FileLock

if TYPE_CHECKING:
    from vestal.client.base import CallContext

MARGIN = 10.0
"""Seconds before its expiry that a key is renewed: time for another process to try it too."""
GRACE = 0.3
"""Seconds that a key file may be behind its server, or half written, without anybody's lock."""
PATIENCE = 15.0
"""Seconds that a call waits for a new key, at most; its deadline may be nearer."""
LIMIT = 3.0
"""Seconds that the token API has; it answers in a few milliseconds or not at all."""
REST = 3.0
"""Seconds after a failed renewal without another: a dead address must not cost every call LIMIT."""
POLL = 0.02


def current_token(context: CallContext, api: Api) -> Flow[str | None]:
    """The token to send; raises TokenError where it cannot be read."""
    tokens = context.tokens
    if not isinstance(tokens, KeyFile):
        return tokens.get(api)
    found = yield from _read(tokens, api)
    end = time.monotonic() + min(PATIENCE, context.deadline.remaining())
    # A key that is new and seems to end already: this clock runs ahead. It is good.
    while _ending(context, api) and not tokens.is_new(api):
        done = yield from _renew(context, tokens, api, found)
        found = tokens.get(api)
        if done or not tokens.has_ended(api) or time.monotonic() >= end:
            break
        yield Pause(POLL)  # another process is asking for the next one
    return found


def find_other_token(context: CallContext, api: Api, refused: set[str | None]) -> Flow[bool]:
    """After a token was refused: is there one that was not?"""
    tokens = context.tokens
    if not isinstance(tokens, KeyFile):
        return False
    started = time.monotonic()
    while True:
        tokens.reload()
        due = _ending(context, api)
        found = tokens.get(api)
        if found in refused and due:
            yield from _renew(context, tokens, api, found)
        if tokens.get(api) not in refused:
            return True
        waited = time.monotonic() - started
        hopeful = waited < PATIENCE if due or _locked(tokens) else waited < GRACE
        if context.deadline.expired or not hopeful:
            return False
        yield Pause(POLL)


def _read(tokens: KeyFile, api: Api) -> Flow[str | None]:
    end = time.monotonic() + GRACE
    while True:
        try:
            return tokens.get(api)
        except TokenError:
            if time.monotonic() >= end or not tokens.path.exists():
                raise
        yield Pause(POLL)


def _ending(context: CallContext, api: Api) -> bool:
    """Is the key about to expire, and can it be renewed here?"""
    tokens = context.tokens
    assert isinstance(tokens, KeyFile)
    left = tokens.seconds_left(api)
    return (
        left is not None
        and left < MARGIN
        and tokens.renewable
        and tokens.renewing_key is not None
        and context.addresses.management is not None
    )


def _renew(context: CallContext, tokens: KeyFile, api: Api, old: str | None) -> Flow[bool]:
    """Is the matter settled, by a new key or by a refusal? False: somebody else is at it."""
    if time.monotonic() < tokens.resting_until:
        return True
    with _lock(tokens.path) as held:
        if held is None:
            tokens.renewable = False  # no lock can be had there, so nothing may be renewed
            return True
        if not held:
            return False
        tokens.reload()
        if tokens.get(api) != old:
            return True  # another process was faster
        outcome = yield HTTPRequest(
            "GET",
            context.addresses.of("management"),
            f"/token?type={api}",
            {"Authorization": f"Bearer {tokens.renewing_key}"},
            limit=min(LIMIT, context.deadline.remaining() / 2),
        )
        tokens.reload()
        if tokens.get(api) != old:
            return True
        if isinstance(outcome, HTTPResponse) and outcome.status < 500:
            # It said no, or it keeps its keys elsewhere and this file is a copy of them.
            tokens.renewable = False
        else:
            tokens.resting_until = time.monotonic() + REST
        return True


@contextmanager
def _lock(key_file: Path) -> Iterator[bool | None]:
    """Is the lock held here? None: it cannot be had at all (no such folder, no permission)."""
    try:
        lock = FileLock(_lock_file(key_file), create=True)
    except OSError:
        yield None
        return
    try:
        yield _acquired(lock)
    finally:
        lock.release()


def _acquired(lock: FileLock) -> bool | None:
    try:
        return lock.acquire()
    except (ImportError, OSError):  # Windows, or a network's file system without locks
        return None


def _lock_file(key_file: Path) -> Path:
    return key_file.with_name(key_file.name + ".lock")


def _locked(tokens: KeyFile) -> bool:
    if not tokens.renewable:
        return False
    with _lock(tokens.path) as held:
        return held is False
