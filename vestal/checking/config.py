"""model-config.yaml: keys and values that TorchServe ignores in silence.

The keys are those of `org.pytorch.serve.archive.model.ModelConfig` of TorchServe 0.12.0, which
takes YAML integers, texts and booleans as they are and drops everything else with a line in a log.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import yaml

from vestal.mar.findings import Findings, short
from vestal.mar.opening import Contents

_COUNT, _POSITIVE, _BOOL, _TEXT = "integer >= 0", "integer >= 1", "true or false", "text"
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
    "rdzv-backend": _TEXT,
    "rdzv-endpoint": _TEXT,
    "rdzv-conf": _TEXT,
    "monitor-interval": _POSITIVE,
    "node-rank": _COUNT,
    "OMP_NUMBER_THREADS": _POSITIVE,
}
# Read by handlers of TorchServe, or by ours; a custom handler may read any other.
HANDLER_KEYS = {"pt2", "handler", "micro_batching"}
# What is told where it stands too deep.
NESTED = {"minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout"}
RISKY = {
    "clientTimeoutInMills": "requests that wait longer get no answer at all",
    "sequenceBatching": "it hangs, or kills workers",
    "continuousBatching": "it hangs, or kills workers",
    "asyncCommunication": "it hangs, or kills workers",
    "useVenv": "every start of a worker installs packages from the network",
}
_CHOICES = {"deviceType": ("cpu", "gpu"), "parallelType": ("pp", "tp", "pptp", "custom")}
_JAVA_INTEGER = 2**31
_MAX_ALIASES = 50  # SnakeYAML's own limit
_MAX_VALUES = 100_000
_TODO = "correct it in model-config.yaml and pack again"


def read_config(contents: Contents, name: str, found: Findings) -> dict[str, Any]:
    """The settings; none where they cannot be read, which is a finding."""
    try:
        text = contents.text(name)
        _check_nodes(text, name, found)
        given = yaml.safe_load(text)
        if not isinstance(given, dict):
            raise ValueError(f"it holds {type(given).__name__}, not keys with values")
        if _grown(given):
            raise ValueError(f"its aliases expand to more than {_MAX_VALUES:,} values")
        odd = [key for key in given if not isinstance(key, str)]
        if odd:
            raise ValueError(f"the key {short(odd[0], 40)} is no text: put it in quotes")
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        found.error(
            "config-file",
            name,
            f"it cannot be read ({' '.join(str(error).split())}), so the model does not load",
            _TODO,
        )
        return {}
    return given


def check_config(config: Mapping[str, Any], name: str, found: Findings, *, free_keys: bool) -> None:
    """`free_keys`: the handler is not TorchServe's nor ours, and may read keys of its own."""
    for key, value in config.items():
        if key in KEYS:
            _check_value(key, value, KEYS[key], name, found)
            if key in RISKY and value not in (False, 0):
                found.warning("config-risky", name, f"{key}: {RISKY[key]}", f"leave {key} out")
        elif key not in HANDLER_KEYS:
            _check_unknown(key, KEYS, name, found, free_keys)
        if key not in KEYS and isinstance(value, dict):
            _check_nested(key, value, config, name, found, free_keys)
    torchrun = config.get("torchrun")
    for key, value in torchrun.items() if isinstance(torchrun, dict) else ():
        if key in TORCHRUN_KEYS:
            _check_value(key, value, TORCHRUN_KEYS[key], f"{name}: torchrun", found)
        else:
            _check_unknown(str(key), TORCHRUN_KEYS, f"{name}: torchrun", found, False)
    _check_workers(config, name, found)
    if _is_integer(config.get("maxBatchDelay")) and config["maxBatchDelay"] == 0:
        found.error(
            "config-value",
            name,
            "maxBatchDelay: 0 means 100 ms to TorchServe",
            "write 1, or batchSize: 1 where nothing shall wait",
        )


def _check_nested(
    key: str,
    value: Mapping[Any, Any],
    config: Mapping[str, Any],
    name: str,
    found: Findings,
    free: bool,
) -> None:
    """Settings of TorchServe's that stand one level too deep."""
    for inner in value:
        if inner in NESTED and inner not in config:
            # A handler of somebody else's may have an option of that name.
            (found.warning if free else found.error)(
                "config-misspelt",
                f"{name}: {key}",
                f"{inner} stands under {key}, where TorchServe does not look for it",
                f"write {inner} at the left margin",
            )


def _check_unknown(
    key: str, known: Mapping[str, str], name: str, found: Findings, free: bool
) -> None:
    plain = {_letters(one): one for one in known}
    near = difflib.get_close_matches(_letters(key), plain, n=1, cutoff=0.85)
    if near:
        found.error(
            "config-misspelt",
            name,
            f"{key} is no key of TorchServe, which ignores it in silence",
            f"did you mean {plain[near[0]]}?",
        )
    elif not free:
        found.warning(
            "config-unknown",
            name,
            f"{key} is read neither by TorchServe nor by this handler",
            "take it out, or correct it (options of a Vestal handler stand under handler:)",
        )


def _check_value(key: str, value: Any, wanted: str, name: str, found: Findings) -> None:
    if wanted in (_COUNT, _POSITIVE):
        fits, in_range = _is_integer(value), value is not None
        if fits:
            in_range = (0 if wanted == _COUNT else 1) <= value < _JAVA_INTEGER
    elif key in _CHOICES:
        fits, in_range = isinstance(value, str), str(value).lower() in _CHOICES[key]
    elif key == "deviceIds":
        fits, in_range = isinstance(value, list) and all(map(_is_integer, value)), True
    else:
        kind = {_BOOL: bool, _TEXT: str}.get(wanted, dict)
        fits, in_range = isinstance(value, kind), True
    if fits and in_range:
        return
    found.error(
        "config-value" if fits else "config-type",
        name,
        f"{key} is {short(value)} ({type(value).__name__}): TorchServe ignores it in silence and "
        "takes its default",
        f"it must be: {wanted}",
    )


def _check_workers(config: Mapping[str, Any], name: str, found: Findings) -> None:
    low, high = config.get("minWorkers"), config.get("maxWorkers")
    if low is not None and high is None:
        found.error(
            "config-workers",
            name,
            "minWorkers without maxWorkers: TorchServe ignores it",
            f"write maxWorkers too, for example maxWorkers: {short(low, 20)}",
        )
    elif isinstance(low, int) and isinstance(high, int) and low > high:
        found.error(
            "config-workers",
            name,
            f"minWorkers is {short(low)}, more than maxWorkers, {short(high)}",
            _TODO,
        )


def _check_nodes(text: str, name: str, found: Findings) -> None:
    """Keys that stand there twice, and aliases: a few make a value that fills the memory."""
    aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text))
    if aliases > _MAX_ALIASES:
        raise ValueError(f"{aliases} aliases; TorchServe's reader takes {_MAX_ALIASES}")
    waiting, known = [yaml.compose(text, Loader=yaml.SafeLoader)], set()
    while waiting:
        node = waiting.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in known:
            continue
        known.add(id(node))  # an alias is the node that it names
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        seen: set[str] = set()
        for key, value in node.value:
            waiting.append(value)
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                found.warning(
                    "config-duplicate",
                    f"{name}:{key.start_mark.line + 1}",
                    f"{key.value} stands there twice: the later one wins",
                    "keep one of them",
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)


def _grown(given: object) -> bool:
    """Whether it is longer than any settings are, once every alias stands for what it names."""
    waiting, count = [given], 0
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
