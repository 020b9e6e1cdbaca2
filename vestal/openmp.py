"""How idle OpenMP threads wait; torch computes with them.

By default they spin, which takes the cores from other workers and processes
(`benchmarks/spinning.py` measures it).
"""

from __future__ import annotations

from collections.abc import Mapping

# Variables of the OpenMP specification, GNU's libgomp and Intel's libiomp.
_USER_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def passive_wait_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables that let idle threads sleep; none if the user has set the policy.

    OpenMP reads them when torch is imported, so set them before that.
    """
    if any(name in environment for name in _USER_VARIABLES):
        return {}
    return {"OMP_WAIT_POLICY": "passive"}
