"""The token of an attempt: renewed before it expires, read again after the server refused it.

TorchServe's token API (`GET /token?type=inference` at the management address, with the API key of
the key file) makes a new key and writes it into the file. The old key is invalid at once, for every
client. So only one process renews a key, under a lock on `key_file.json.lock` in the same folder,
and only in the last 10 seconds before the key expires. While another process holds the lock, a
client uses the old key until it expires, and then waits for the new one. After a failed renewal the
client waits a few seconds before the next one. If the server refused, or the renewal did not change
the file (a copy), it does not try again until the file changes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
"""Seconds for which a key file may be outdated or incomplete while no process holds the lock."""
PATIENCE = 15.0  # most seconds that a call waits for a new key, within its deadline
RENEWAL_TIMEOUT = 3.0  # time limit of the token API, in seconds; it usually takes milliseconds
RETRY_SECONDS = (
    3.0  # seconds after a failed renewal before the next one, so that not every call waits for it
)
POLL = 0.02


def current_token(context: CallContext, api: Api) -> Flow[str | None]:
    """Return the token to send; raises TokenError if it cannot be read."""
    tokens = context.tokens
    if not isinstance(tokens, KeyFile):
        return tokens.get(api)
    found = yield from _read(tokens, api)
    end = time.monotonic() + min(PATIENCE, context.deadline.remaining())
    # A new key that seems to expire already is valid: the clock of this machine is ahead.
    while _is_expiring(context, api) and not tokens.is_new(api):
        done = yield from _renew(context, tokens, api, found)
        found = tokens.get(api)
        if done or not tokens.has_ended(api) or time.monotonic() >= end:
            break
        yield Pause(POLL)  # another process is renewing the key
    return found


def renew_keys(context: CallContext) -> Flow[None]:
    """Renew every key that is about to expire; other calls renew only their own."""
    for api in ("inference", "management"):
        yield from current_token(context, api)


def find_other_token(context: CallContext, api: Api, refused: set[str | None]) -> Flow[bool]:
    """Whether there is a token that was not refused yet."""
    tokens = context.tokens
    if not isinstance(tokens, KeyFile):
        return False
    started = time.monotonic()
    while True:
        tokens.reload()
        due = _is_expiring(context, api)
        found = tokens.get(api)
        if found in refused and due:
            yield from _renew(context, tokens, api, found)
        if tokens.get(api) not in refused:
            return True
        waited = time.monotonic() - started
        patience = PATIENCE if due or _is_locked(tokens) else GRACE
        if context.deadline.expired or waited >= patience:
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


def _is_expiring(context: CallContext, api: Api) -> bool:
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
    if time.monotonic() < tokens.no_renewal_before:
        return True
    with _lock(tokens.path) as held:
        if held is None:
            tokens.renewable = False  # without locks, two processes could renew at once
            return True
        if not held:
            return False
        tokens.reload()
        if tokens.get(api) != old:
            return True  # another process has renewed it
        outcome = yield HTTPRequest(
            "GET",
            context.addresses.of("management"),
            f"/token?type={api}",
            {"Authorization": f"Bearer {tokens.renewing_key}"},
            limit=min(RENEWAL_TIMEOUT, context.deadline.remaining() / 2),
        )
        tokens.reload()
        if tokens.get(api) != old:
            return True
        if isinstance(outcome, HTTPResponse) and outcome.status < 500:
            # The server refused, or this file is a copy.
            tokens.renewable = False
        else:
            tokens.no_renewal_before = time.monotonic() + RETRY_SECONDS
        return True


@contextmanager
def _lock(key_file: Path) -> Iterator[bool | None]:
    """Yield whether the lock is held; None if locks are unavailable there."""
    lock: FileLock | None = None
    held: bool | None = None
    try:
        # An ImportError on Windows; an OSError without permission, or on some network file systems.
        with suppress(ImportError, OSError):
            lock = FileLock(key_file.with_name(key_file.name + ".lock"), create=True)
            held = lock.acquire()
        yield held
    finally:
        if lock is not None:
            lock.release()


def _is_locked(tokens: KeyFile) -> bool:
    if not tokens.renewable:
        return False
    with _lock(tokens.path) as held:
        return held is False
