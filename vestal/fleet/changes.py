"""Changes of the desired state by commands: register, scale, set-default, unregister.

Each function returns a new desired state and leaves its argument as it is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vestal.errors import UsageError
from vestal.fleet.desired import Desired, ModelTarget, VersionTarget, Workers
from vestal.fleet.status import Revision, RevisionSummary

MAX_WORKERS = 1000
"""Workers of one version; more are a typing error."""
_WORKERS = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)


def parse_workers(text: str) -> Workers:
    """Parse `2` or `1-4`.

    Raises:
        UsageError: it is something else, or no number of workers.
    """
    found = _WORKERS.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"workers are {text!r}; expected a number or MIN-MAX, such as 2 or 1-4")
    least, most = int(found[1]), int(found[2] or found[1])
    if least < 1:
        raise UsageError("0 workers cannot serve; to stop serving, use `vestal unregister`")
    if least > most:
        raise UsageError(
            f"workers are {text}: {least} is greater than {most}. Write {most}-{least}"
        )
    if most > MAX_WORKERS:
        raise UsageError(f"workers are {text}; expected at most {MAX_WORKERS:,}")
    return Workers(min=least, max=most)


def register(
    desired: Desired,
    model: str,
    version: str,
    target: VersionTarget,
    *,
    default: bool = False,
) -> Desired:
    """Serve a version. The first version of a model is its default.

    Args:
        default: make it the default; the previous default stays registered.

    Raises:
        UsageError: the version is served from an archive with another content.
    """
    known = desired.models.get(model)
    if known is None:
        return _with(desired, model, ModelTarget(default=version, versions={version: target}))
    served = known.versions.get(version)
    if served is not None and served.sha256 != target.sha256:
        raise UsageError(
            f"{model} {version} is already served from {served.archive} (sha256 "
            f"{served.sha256[:12]}...), and {target.archive} has another content (sha256 "
            f"{target.sha256[:12]}...). Pack it as another version"
        )
    versions = {**known.versions, version: target}
    new_default = version if default else known.default
    return _with(desired, model, known.with_versions(new_default, versions))


def scale(desired: Desired, model: str, version: str | None, workers: Workers) -> Desired:
    """Change the number of workers of a version; `version` None is the default version.

    Raises:
        UsageError: the model or the version is not served.
    """
    known = find_model(desired, model)
    chosen = version or known.default
    target = find_version(known, model, chosen).model_copy(update={"workers": workers})
    versions = {**known.versions, chosen: target}
    return _with(desired, model, known.model_copy(update={"versions": versions}))


def set_default(desired: Desired, model: str, version: str) -> Desired:
    """Make a registered version the default; the previous one stays registered.

    Raises:
        UsageError: the model or the version is not served.
    """
    known = find_model(desired, model)
    find_version(known, model, version)
    return _with(desired, model, known.with_versions(version, known.versions))


def unregister(desired: Desired, model: str, version: str | None) -> Desired:
    """Stop serving a version, or all versions of a model (`version` None).

    Raises:
        UsageError: it is not served, or it is the default and other versions are served.
    """
    known = find_model(desired, model)
    if version is not None:
        find_version(known, model, version)
    others = {name: each for name, each in known.versions.items() if name != version}
    if version is None or not others:
        models = {name: each for name, each in desired.models.items() if name != model}
        return desired.model_copy(update={"models": models})
    if version == known.default:
        raise UsageError(
            f"{model} {version} is the default version. Make another one the default first "
            f"(`vestal set-default {model} {next(iter(others))}`), or unregister all versions "
            f"(`vestal unregister {model}`)"
        )
    return _with(desired, model, known.with_versions(known.default, others))


def split_name(desired: Desired, name: str) -> tuple[str, str | None]:
    """Split `mnist` or `mnist-1.0` into the model and the version, if there is one.

    Raises:
        UsageError: no such model or version is served.
    """
    if name in desired.models:
        return name, None
    for model in sorted(desired.models, key=len, reverse=True):
        if name.startswith(f"{model}-"):
            version = name.removeprefix(f"{model}-")
            find_version(desired.models[model], model, version)
            return model, version
    find_model(desired, name)
    raise AssertionError  # find_model has raised an error


def find_model(desired: Desired, model: str) -> ModelTarget:
    """Return a model; raises UsageError with the nearest name."""
    found = desired.models.get(model)
    if found is None:
        raise UsageError(f"no model {model} is served; {_nearest(model, desired.models)}")
    return found


def find_version(target: ModelTarget, model: str, version: str) -> VersionTarget:
    """Return a version; raises UsageError with the versions that are served."""
    found = target.versions.get(version)
    if found is None:
        raise UsageError(
            f"{model} {version} is not registered; {_nearest(version, target.versions)}. "
            "`vestal register ARCHIVE` adds a version"
        )
    return found


def describe(before: Desired, after: Desired) -> list[str]:
    """Describe the difference of two desired states, one sentence per change."""
    changes = list(_differences(before.models, after.models))
    if before.gateway != after.gateway:
        kind = "added" if not before.gateway else "settings changed" if after.gateway else "removed"
        changes.append(f"gateway: {kind}")
    return changes


def summarize(revisions: Sequence[Revision]) -> list[RevisionSummary]:
    """Summarize a history, newest first."""
    before = [each.desired for each in revisions[1:]] + [Desired()]
    return [
        RevisionSummary(
            number=each.number,
            time=each.time,
            source=each.source,
            outcome=each.outcome,
            reason=each.reason,
            changes=describe(older, each.desired),
        )
        for each, older in zip(revisions, before, strict=True)
    ]


def _differences(
    before: Mapping[str, ModelTarget], after: Mapping[str, ModelTarget]
) -> Iterator[str]:
    for name, new in after.items():
        old = before.get(name)
        if old is None:
            yield f"{name} {new.default} added"
            continue
        if old.default != new.default:
            yield f"{name} {old.default} -> {new.default}"
        for version, target in new.versions.items():
            was = old.versions.get(version)
            if was is None and version != new.default:
                yield f"{name} {version} registered"
            elif was is not None and was.workers != target.workers:
                old_number, new_number = _bounds(was.workers), _bounds(target.workers)
                yield f"{name} {version}: {old_number} -> {new_number} workers"
            elif was is not None and was != target:
                yield f"{name} {version} changed"
        for version in old.versions.keys() - new.versions.keys():
            if version != old.default or old.default == new.default:
                yield f"{name} {version} unregistered"
        if old.canary != new.canary:
            share = f"{new.canary.version} gets {new.canary.weight:g} %" if new.canary else "ended"
            yield f"{name}: canary {share}"
        if old.shadow != new.shadow:
            share = f"{new.shadow.version} gets {new.shadow.sample:g} %" if new.shadow else "ended"
            yield f"{name}: shadow {share}"
        if (old.probes, old.swap, old.required) != (new.probes, new.swap, new.required):
            yield f"{name}: settings changed"
    for name in before.keys() - after.keys():
        yield f"{name} removed"


def _bounds(workers: Workers) -> str:
    same = workers.min == workers.max
    return str(workers.max) if same else f"{workers.min}-{workers.max}"


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else f"served: {', '.join(names) or 'none'}"


def _with(desired: Desired, model: str, target: ModelTarget) -> Desired:
    return desired.model_copy(update={"models": {**desired.models, model: target}})
