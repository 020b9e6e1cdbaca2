"""Join the responses of both sides by their request IDs. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vestal.shadow.digests import Side

WAIT_SECONDS = 120.0
"""TorchServe's default response timeout: a response may still come for this time."""

REPEATED = "request ID not unique"
WAITING = f"other response may still come ({WAIT_SECONDS:.0f} s)"
BEFORE = "before the first kept response of the other version"
MISSING = "no response of the other version"
WITHOUT_ID = "no request ID"


@dataclass(frozen=True)
class Joined:
    """The result of a join.

    Attributes:
        pairs: uint64 [pairs, 2]: places of the live and of the shadow response, by the former.
        live, shadow: number of responses that were not joined, by the reason.
    """

    pairs: NDArray[np.uint64]
    live: Mapping[str, int]
    shadow: Mapping[str, int]


def join(live: Side, shadow: Side, now: float) -> Joined:
    """Join two sides.

    A request ID that occurs twice on a side is not joined: which response belongs to which copy is
    unknown. Times only give the reasons, so that neither a late response nor a clock that was set
    changes what is joined.

    Args:
        now: the time in seconds since 1970.
    """
    sides = [_arrays(side) for side in (live, shadow)]
    unique = [np.unique(keys, return_index=True, return_counts=True) for keys, _, _ in sides]
    repeated = np.union1d(*(keys[counts > 1] for keys, _, counts in unique))
    common, first, second = np.intersect1d(
        unique[0][0], unique[1][0], assume_unique=True, return_indices=True
    )
    alone = ~np.isin(common, repeated, assume_unique=True)
    places = [sides[0][1][unique[0][1][first[alone]]], sides[1][1][unique[1][1][second[alone]]]]
    pairs = np.stack(places, axis=1)
    reasons = [
        _reasons(sides[own], sides[1 - own], (live, shadow)[own].without_id, repeated, now)
        for own in (0, 1)
    ]
    return Joined(pairs[np.argsort(pairs[:, 0])], *reasons)


def _arrays(side: Side) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.float64]]:
    return (
        np.asarray(side.keys, np.uint64),
        np.asarray(side.places, np.uint64),
        np.asarray(side.times, np.float64),
    )


def _reasons(
    own: tuple[NDArray[Any], ...],
    other: tuple[NDArray[Any], ...],
    without_id: int,
    repeated: NDArray[np.uint64],
    now: float,
) -> dict[str, int]:
    is_repeated = np.isin(own[0], repeated)
    times = own[2][~is_repeated & ~np.isin(own[0], other[0])]
    start = other[2].min() if len(other[2]) else -np.inf
    waiting, before = times > now - WAIT_SECONDS, times < start
    counts = {
        REPEATED: is_repeated.sum(),
        WAITING: waiting.sum(),
        BEFORE: (before & ~waiting).sum(),
        MISSING: (~before & ~waiting).sum(),
        WITHOUT_ID: without_id,
    }
    return {reason: int(count) for reason, count in counts.items() if count}
