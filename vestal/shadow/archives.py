"""Which archives can be compared: those whose handlers write digests."""

from __future__ import annotations

from pathlib import Path

from vestal.errors import UsageError
from vestal.mar.layout import read_member
from vestal.mar.zips import BROKEN

_MEMBER = "vestal_handlers/digests.py"


def check_comparable(archive: Path) -> None:
    """Refuse an archive whose handlers write no digests.

    The gateway discards the responses of a shadow version, so that a handler has to keep what is
    compared. Without it only statuses and latencies would be known, which a canary shows better.

    Raises:
        UsageError: other tools, or an older version of Vestal, have made the archive.
    """
    try:
        found = read_member(archive, _MEMBER)
    except (OSError, *BROKEN) as error:
        raise UsageError(f"{archive.name} cannot be read: {error}") from None
    if found is None:
        raise UsageError(
            f"{archive.name} has no handlers of this version of Vestal, so its responses cannot be "
            "compared; pack the model with `vestal pack`, for the live and the shadow version"
        )
