"""Checkpoints from other projects: find the state_dict, and remove the prefixes of wrappers.

Only tensors and plain values are unpickled; of plain data classes nothing is kept or run.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vestal.weights import plain_data
from vestal.weights.plain_data import unsafe_message
from vestal_handlers.engines import eager

logger = logging.getLogger(__name__)

# Usual keys of the state_dict in a checkpoint, the most frequent first.
STATE_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
# Prefixes that torch.compile and activation checkpointing add to any part of a key.
WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
DEPTH = 3  # of nested dicts, such as {"model": {"state_dict": ...}}
# BatchNorm's count of batches: files from before torch 0.4.1 and from other tools lack it, and
# inference does not read it.
COUNTER = "num_batches_tracked"
# Weights of losses and metrics, which belong to a training but not to its model.
LOSSES = re.compile(r"(\w+_)?(criterion|loss|losses|loss_fn|loss_function|metrics?)(_\w+)?\.")
AVERAGES = re.compile(r"(^|[._])(ema|averaged?|swa|teacher|momentum|target)([._]|$)", re.IGNORECASE)


def split_part(source: str) -> tuple[Path, str]:
    """The file and the part of `FILE:PART`; a file with a colon in its name comes first."""
    file, colon, part = source.rpartition(":")
    if colon and not Path(source).exists() and Path(file).is_file():
        return Path(file), part
    return Path(source), ""


def read_checkpoint(path: Path, part: str = "") -> dict[str, Tensor]:
    """The state_dict in a file of `torch.save` or of safetensors, alone or in a checkpoint.

    Args:
        part: one of several state_dicts in a checkpoint: the keys that lead to it, or a prefix of
            its tensors' names. Default: the usual one; a warning names the others.

    Raises:
        ValueError: no state_dict, no such part, or more than tensors and plain data; the message
            names it, and nothing of it was run.
    """
    if path.suffix == ".safetensors":
        content: Any = eager.read(path)
        classes: list[str] = []
    else:
        content, classes = _load(path)
    states = dict(_states(content))
    default = _default_state(content)
    if part:
        return _part(states, default, part, path)
    if not _is_state(default) and classes:
        raise ValueError(unsafe_message(path, classes))
    state = eager.check_state(default, path.name)
    name = next((key for key, value in states.items() if value is default), "")
    others = [
        key for key, value in states.items() if value is not default and 2 * len(value) > len(state)
    ]
    if others and name:
        _warn_of_others(path.name, name, others, path.name)
    return state


def _load(path: Path) -> tuple[Any, list[str]]:
    with warnings.catch_warnings():
        # torch warns about pickles of other programs before it raises.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        try:
            return eager.load_pickle(path), []
        except eager.UnsafePickle:
            return plain_data.load(path)


def _part(states: Mapping[str, Any], default: Any, part: str, path: Path) -> dict[str, Tensor]:
    if part in states:
        return dict(states[part])
    prefix = f"{part.rstrip('.')}."
    matches = {key: value for key, value in states.items() if key.startswith(prefix)}
    if len(matches) == 1:
        return dict(next(iter(matches.values())))
    state = default if _is_state(default) else {}
    short = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not short:
        raise ValueError(
            f"{path.name} has no part {part!r}: it holds "
            f"{', '.join(name for name in states if name) or 'one state_dict'}"
        )
    return short


def _states(content: Any, path: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """All state_dicts in a checkpoint, with the keys that lead to them."""
    if _is_state(content):
        yield path, content
    elif isinstance(content, Mapping) and depth:
        for key, value in content.items():
            if isinstance(key, str) and not key.startswith(("optim", "lr_sched", "scaler")):
                yield from _states(value, f"{path}.{key}" if path else key, depth - 1)


def _default_state(content: Any, depth: int = DEPTH) -> Any:
    """The usual state_dict of a checkpoint, or the value in its place."""
    if _is_state(content) or not isinstance(content, Mapping) or not depth:
        return content
    usual = [content[k] for k in STATE_KEYS if isinstance(content.get(k), Mapping) and content[k]]
    # Under another key only if there is no second one.
    found = usual[:1] or [value for value in content.values() if _is_state(value)]
    return _default_state(found[0], depth - 1) if len(found) == 1 else content


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) for key in value)
        and all(isinstance(item, Tensor) for item in value.values())
    )


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    labels: Sequence[str] | None = None,
) -> None:
    """Fill a module from a state_dict whose keys may have the prefixes of wrappers.

    Args:
        labels: those that the module was built for, for the message about another number.

    Raises:
        ValueError: keys or shapes that do not fit, by name.
    """
    places = module.state_dict()
    fitting = unwrap_keys(state, set(places), source)
    for key, place in places.items():
        if _is_counter(key) and key not in fitting:
            fitting[key] = place
    try:
        eager.fill(module, fitting, source)
    except ValueError as error:
        raise ValueError(f"{error}{_class_hint(fitting, places, labels)}") from None


def unwrap_keys(
    state: Mapping[str, Tensor], places: set[str], source: str = "the weights"
) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers from the keys of a state_dict, so that they fit `places`.

    DistributedDataParallel adds `module.`, torch.compile `_orig_mod.`, a Lightning module the name
    of its attribute, and wrappers can be nested. If the keys with one prefix fill all places, the
    other tensors (weights of a loss, an average of the model) are left out with a warning. Keys
    without a prefix stay as they are.
    """
    plain = dict(state)
    for wrapper in WRAPPERS:
        shorter = {key.replace(wrapper, ""): value for key, value in plain.items()}
        if len(shorter) == len(plain) and not any(wrapper in place for place in places):
            plain = shorter
    required = {place for place in places if not _is_counter(place)}
    if required <= set(plain):
        losses = [key for key in plain if key not in places and LOSSES.match(key)]
        return _without(plain, losses, source)
    prefixes = Counter(
        key[: -len(place)]
        for key in plain
        for place in _endings(key)
        if place in required and place != key
    )
    complete = [prefix for prefix, count in prefixes.items() if count >= len(required)]
    if complete:
        prefix = min(complete, key=lambda name: AVERAGES.search(name) is not None)
        others = [key for key in plain if not key.startswith(prefix)]
        averages = [name.rstrip(".") for name in complete if name != prefix]
        if averages:
            _warn_of_others(source, prefix.rstrip("."), averages, "FILE")
        kept = _without(plain, others, source, warn=not averages)
        return {key.removeprefix(prefix): value for key, value in kept.items()}
    for prefix, count in prefixes.most_common(1):
        short = {key.removeprefix(prefix): value for key, value in plain.items()}
        # If the prefix does not explain all keys, messages name the original ones.
        if (
            count > len(places & set(plain))
            and len(short) == len(plain)
            and all(key.startswith(prefix) for key in plain)
        ):
            return short
    return plain


def _warn_of_others(source: str, name: str, others: Sequence[str], file: str) -> None:
    logger.warning(
        "%s: using the weights under %s; it also holds %s (select them with --weights %s:%s)",
        *(source, name, ", ".join(others), file, others[0]),
    )


def _without(
    state: Mapping[str, Tensor], left_out: Sequence[str], source: str, *, warn: bool = True
) -> dict[str, Tensor]:
    if left_out and warn:
        more = f" and {len(left_out) - 4} more" if len(left_out) > 4 else ""
        logger.warning(
            "%s: not part of the model, left out: %s%s", source, ", ".join(left_out[:4]), more
        )
    return {key: value for key, value in state.items() if key not in set(left_out)}


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == COUNTER


def _endings(key: str) -> list[str]:
    """a.b.c: a.b.c, b.c, c."""
    parts = key.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _class_hint(
    state: Mapping[str, Tensor], places: Mapping[str, Tensor], labels: Sequence[str] | None
) -> str:
    """A hint if only the number of classes differs, else nothing."""
    shapes = [
        (state[key].shape, places[key].shape)
        for key in state
        if key in places and state[key].shape != places[key].shape
    ]
    if not labels or not shapes:
        return ""
    classes = {len(shape) and shape[0] for shape, _ in shapes}
    same = all(len(a) == len(b) and a[1:] == b[1:] for a, b in shapes)
    if same and len(classes) == 1 and all(b[0] == len(labels) for _, b in shapes):
        return (
            f". The weights have {classes.pop()} classes but there are {len(labels)} labels. Pass "
            "the labels with --labels FILE (one per line, in class order)"
        )
    return ""
