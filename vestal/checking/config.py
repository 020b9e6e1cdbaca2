"""Check model-config.yaml for keys and values that TorchServe ignores silently.

The keys are those of `org.pytorch.serve.archive.model.ModelConfig` in TorchServe 0.12.0, which
accepts YAML integers, strings and booleans and ignores any other value, with a line in its log.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Set
from typing import Any

import yaml

from vestal.mar.findings import Check, Finding, short_repr
from vestal.mar.opening import Contents

_COUNT, _POSITIVE, _BOOL, _STRING = "integer >= 0", "integer >= 1", "true or false", "string"
KEYS = {
    "minWorkers": _COUNT,
    "maxWorkers": _COUNT,
    "batchSize": _POSITIVE,
    "maxBatchDelay": _COUNT,
    "responseTimeout": _POSITIVE,
    "startupTimeout": _POSITIVE,
    "deviceType": "cpu or gpu",
    "deviceIds": "list of integers",
    "parallelType": "pp, tp, pptp or custom",
    "parallelLevel": _POSITIVE,
    "torchrun": "mapping",
    "maxRetryTimeoutInSec": _POSITIVE,
    "clientTimeoutInMills": _COUNT,
    "jobQueueSize": _POSITIVE,
    "useJobTicket": _BOOL,
    "maxNumSequence": _POSITIVE,
    "maxSequenceJobQueueSize": _POSITIVE,
    "sequenceMaxIdleMSec": _COUNT,
    "sequenceTimeoutMSec": _COUNT,
    "sequenceBatching": _BOOL,
    "continuousBatching": _BOOL,
    "asyncCommunication": _BOOL,
    "useVenv": _BOOL,
}
TORCHRUN_KEYS = {
    "nnodes": _POSITIVE,
    "nproc-per-node": _POSITIVE,
    "rdzv-backend": _STRING,
    "rdzv-endpoint": _STRING,
    "rdzv-conf": _STRING,
    "monitor-interval": _POSITIVE,
    "node-rank": _COUNT,
    "OMP_NUMBER_THREADS": _POSITIVE,
}
# Read by handlers of TorchServe or by ours; a custom handler may read other keys.
HANDLER_KEYS = {"pt2", "handler", "micro_batching"}
# Reported if they are nested in another key.
NESTED = {"minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout"}
RISKY = {
    "clientTimeoutInMills": "requests that wait longer get no response at all",
    "sequenceBatching": "it hangs, or kills workers",
    "continuousBatching": "it hangs, or kills workers",
    "asyncCommunication": "it hangs, or kills workers",
    "useVenv": "every worker installs packages from the network when it starts",
}
_CHOICES = {"deviceType": ("cpu", "gpu"), "parallelType": ("pp", "tp", "pptp", "custom")}
_JAVA_INTEGER = 2**31
_MAX_ALIASES = 50  # the limit of SnakeYAML, which TorchServe uses
_MAX_VALUES = 100_000
_TODO = "correct it in model-config.yaml and pack again"


def read_config(contents: Contents, name: str) -> Check[dict[str, Any]]:
    """Read the settings; empty if they cannot be read."""
    try:
        text = contents.text(name)
        yield from _check_nodes(text, name)
        settings = yaml.safe_load(text)
        if not isinstance(settings, dict):
            raise ValueError(f"expected keys with values, got {type(settings).__name__}")
        if _is_too_large(settings):
            raise ValueError(f"its aliases expand to more than {_MAX_VALUES:,} values")
        for key in settings:
            if not isinstance(key, str):
                raise ValueError(f"the key {short_repr(key, 40)} is not a string: quote it")
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        yield Finding.error(
            "config-file", name, f"it cannot be read ({reason}), so the model is not loaded", _TODO
        )
        return {}
    return settings


def check_config(settings: Mapping[str, Any], name: str, *, custom: bool) -> Check[None]:
    """Check every setting of the member `name`.

    Args:
        custom: the handler is neither TorchServe's nor Vestal's, so it may read keys of its own.
    """
    for key, value in settings.items():
        if key in KEYS:
            yield from _check_value(key, value, KEYS[key], name)
            if key in RISKY and value not in (False, 0):
                yield Finding.warning("config-risky", name, f"{key}: {RISKY[key]}", f"remove {key}")
            continue
        if key not in HANDLER_KEYS:
            yield from _check_unknown(key, KEYS, name, custom)
        if isinstance(value, dict):
            yield from _check_nested(key, value.keys() - settings.keys(), name, custom)
    torchrun = settings.get("torchrun")
    for key, value in torchrun.items() if isinstance(torchrun, dict) else ():
        if key in TORCHRUN_KEYS:
            yield from _check_value(key, value, TORCHRUN_KEYS[key], f"{name}: torchrun")
        else:
            yield from _check_unknown(str(key), TORCHRUN_KEYS, f"{name}: torchrun", False)
    yield from _check_workers(settings, name)
    if _is_integer(settings.get("maxBatchDelay")) and settings["maxBatchDelay"] == 0:
        yield Finding.error(
            "config-value",
            name,
            "TorchServe treats maxBatchDelay: 0 as 100 ms",
            "write 1, or batchSize: 1 if requests should not wait",
        )


def _check_nested(key: str, inner_keys: Set[Any], name: str, custom: bool) -> Iterator[Finding]:
    # A custom handler may have an option with that name.
    add = Finding.warning if custom else Finding.error
    for inner in sorted(inner_keys & NESTED):
        yield add(
            "config-misspelt",
            f"{name}: {key}",
            f"{inner} is nested in {key}, where TorchServe does not read it",
            f"move {inner} to the top level",
        )


def _check_unknown(
    key: str, known: Mapping[str, str], name: str, custom: bool
) -> Iterator[Finding]:
    plain = {_letters(each): each for each in known}
    near = difflib.get_close_matches(_letters(key), plain, n=1, cutoff=0.85)
    if near:
        yield Finding.error(
            "config-misspelt",
            name,
            f"{key} is not a key of TorchServe, which ignores it silently",
            f"did you mean {plain[near[0]]}?",
        )
    elif not custom:
        yield Finding.warning(
            "config-unknown",
            name,
            f"neither TorchServe nor this handler reads {key}",
            "remove or correct it (options of a Vestal handler are nested in handler:)",
        )


def _check_value(key: str, value: Any, expected: str, name: str) -> Iterator[Finding]:
    if expected in (_COUNT, _POSITIVE):
        fits, in_range = _is_integer(value), value is not None
        if fits:
            in_range = (0 if expected == _COUNT else 1) <= value < _JAVA_INTEGER
    elif key in _CHOICES:
        fits, in_range = isinstance(value, str), str(value).lower() in _CHOICES[key]
    elif key == "deviceIds":
        fits, in_range = isinstance(value, list) and all(map(_is_integer, value)), True
    else:
        kind = {_BOOL: bool, _STRING: str}.get(expected, dict)
        fits, in_range = isinstance(value, kind), True
    if not (fits and in_range):
        yield Finding.error(
            "config-value" if fits else "config-type",
            name,
            f"{key} is {short_repr(value)} ({type(value).__name__}): TorchServe ignores it "
            "silently and uses its default",
            f"expected: {expected}",
        )


def _check_workers(settings: Mapping[str, Any], name: str) -> Iterator[Finding]:
    low, high = settings.get("minWorkers"), settings.get("maxWorkers")
    if low is not None and high is None:
        yield Finding.error(
            "config-workers",
            name,
            "minWorkers without maxWorkers: TorchServe ignores it",
            f"add maxWorkers, for example maxWorkers: {short_repr(low, 20)}",
        )
    elif isinstance(low, int) and isinstance(high, int) and low > high:
        yield Finding.error(
            "config-workers",
            name,
            f"minWorkers ({short_repr(low)}) is larger than maxWorkers ({short_repr(high)})",
            _TODO,
        )


def _check_nodes(text: str, name: str) -> Iterator[Finding]:
    """Duplicate keys; raises ValueError for aliases, with which a short text fills the memory."""
    aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text))
    if aliases > _MAX_ALIASES:
        raise ValueError(f"{aliases} aliases; TorchServe's YAML reader accepts {_MAX_ALIASES}")
    waiting, visited = [yaml.compose(text, Loader=yaml.SafeLoader)], set()
    while waiting:
        node = waiting.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in visited:
            continue
        visited.add(id(node))  # an alias is the same node again
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        seen: set[str] = set()
        for key, value in node.value:
            waiting.append(value)
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                yield Finding.warning(
                    "config-duplicate",
                    f"{name}:{key.start_mark.line + 1}",
                    f"{key.value} appears twice: the last one applies",
                    "keep one of them",
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)


def _is_too_large(settings: object) -> bool:
    """Whether it has more than _MAX_VALUES values once all aliases are expanded."""
    waiting, count = [settings], 0
    while waiting and count <= _MAX_VALUES:
        value = waiting.pop()
        inner = list(value.values()) if isinstance(value, dict) else value
        if isinstance(inner, list):
            count += len(inner)
            waiting += inner
    return count > _MAX_VALUES


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _letters(key: str) -> str:
    return "".join(letter for letter in key.lower() if letter.isalnum())
