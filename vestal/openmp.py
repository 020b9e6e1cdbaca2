"""How OpenMP's threads wait: torch computes with them, and by default they spin meanwhile.

Spinning threads take the cores from other workers and processes, which then keep those threads
waiting in turn. `benchmarks/spinning.py` measures it.
"""

from __future__ import annotations

from collections.abc import Mapping

# Of the OpenMP specification, GNU's libgomp and Intel's libiomp: what a user may have set.
_SET_BY_USERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that let threads sleep while they wait; none where the user has set any.

    OpenMP reads them when torch is imported, so they must be set before that.
    """
    if any(name in environment for name in _SET_BY_USERS):
        return {}
    return {"OMP_WAIT_POLICY": "passive"}
