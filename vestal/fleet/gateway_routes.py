"""The versions that the gateway sends requests to. A pure function."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from vestal.fleet.actual import Actual, ModelState
from vestal.fleet.desired import Canary, Desired, ModelTarget, Shadow
from vestal.gateway.setup import ModelRoutes, Share

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")


def model_routes(
    desired: Desired, actual: Actual, withdrawn: Collection[tuple[str, str]] = ()
) -> tuple[ModelRoutes, ...]:
    """Return the routes of all models.

    A canary or shadow gets requests only while it is verified and has a READY worker; otherwise,
    all requests go to the default version. Versions that are desired have routes even while
    TorchServe does not have them, so that callers are told to try again, unless they were rejected.

    Args:
        withdrawn: models and versions that are about to be removed.
    """
    names = sorted({*desired.models, *actual.models})
    return tuple(_routes(names, desired, actual, withdrawn))


def _routes(
    names: Collection[str],
    desired: Desired,
    actual: Actual,
    withdrawn: Collection[tuple[str, str]],
) -> Iterator[ModelRoutes]:
    for name in names:
        target, state = desired.models.get(name), actual.models.get(name, ModelState())
        hopeful = set(target.versions) - state.rejected.keys() if target else set()
        known = {*state.versions, *hopeful}
        # Others may have registered versions whose names do not fit into a route.
        versions = sorted(v for v in known if (name, v) not in withdrawn and _NAME.fullmatch(v))
        default = _default(target, state, versions)
        if default is None or not _NAME.fullmatch(name):
            continue
        usable = {v for v in versions if v != default and _is_usable(state, v)}
        canary, shadow = (target.canary, target.shadow) if target else (None, None)
        yield ModelRoutes(
            name,
            default,
            tuple(versions),
            canary=_canary_share(canary) if canary and canary.version in usable else None,
            shadow=_shadow_share(shadow) if shadow and shadow.version in usable else None,
        )


def _default(
    target: ModelTarget | None, state: ModelState, versions: Collection[str]
) -> str | None:
    candidates = [state.default, state.serving, target.default if target else None]
    return next((each for each in candidates if each in versions), None)


def _is_usable(state: ModelState, version: str) -> bool:
    found = state.versions.get(version)
    return found is not None and found.verified and found.ready > 0


def _canary_share(canary: Canary) -> Share:
    return Share(canary.version, canary.weight, canary.sticky)


def _shadow_share(shadow: Shadow) -> Share:
    return Share(shadow.version, shadow.sample)
