"""The token of an attempt: renewed before it expires, read again after it was refused.

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
"""Seconds before its expiry at which a key is renewed: enough for another process to retry."""
GRACE = 0.3
"""Seconds for which a key file may be outdated or half written while nobody holds the lock."""
PATIENCE = 15.0
"""Most seconds that a call waits for a new key, within its deadline."""
LIMIT = 3.0
"""Time limit of the token API, in seconds; it usually takes milliseconds."""
REST = 3.0
"""Seconds after a failed renewal before the next one, so that not every call waits LIMIT."""
POLL = 0.02


def current_token(context: CallContext, api: Api) -> Flow[str | None]:
    """Return the token to send; raises TokenError if it cannot be read."""
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
    """Whether there is a token that was not refused yet."""
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
    """Whether the key is about to expire and this client can renew it."""
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
    """Renew the key; False if another process is renewing it."""
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
            # The server refused, or this file is a copy of its keys.
            tokens.renewable = False
        else:
            tokens.resting_until = time.monotonic() + REST
        return True


@contextmanager
def _lock(key_file: Path) -> Iterator[bool | None]:
    """Yield whether the lock is held; None if it is unavailable (no folder, no permission)."""
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
