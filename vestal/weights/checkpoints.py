"""Somebody else's checkpoint: the state_dict in it, and its keys without what wrappers add.

Nothing is unpickled but tensors and plain values; of plain data classes nothing is kept or run.
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
from vestal.weights.plain_data import more_than_tensors
from vestal_handlers.engines import eager

logger = logging.getLogger(__name__)

# Where checkpoints keep the state_dict, the usual names first.
INSIDE = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
# What torch.compile and activation checkpointing put before the keys of a part, anywhere.
WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
DEPTH = 3  # {"model": {"state_dict": ...}} has been seen
# BatchNorm's count of batches: files from before torch 0.4.1 and from other tools lack it, and
# nothing that is served reads it.
COUNTER = "num_batches_tracked"
# Parts of a training that are no parts of its model.
LOSSES = re.compile(r"(\w+_)?(criterion|loss|losses|loss_fn|loss_function|metrics?)(_\w+)?\.")
AVERAGED = re.compile(r"(^|[._])(ema|averaged?|swa|teacher|momentum|target)([._]|$)", re.IGNORECASE)


def split_part(source: str) -> tuple[Path, str]:
    """The file and the part of `FILE:PART`; a file of that whole name comes first."""
    file, colon, part = source.rpartition(":")
    if colon and not Path(source).exists() and Path(file).is_file():
        return Path(file), part
    return Path(source), ""


def read_checkpoint(path: Path, part: str = "") -> dict[str, Tensor]:
    """The state_dict in a file of `torch.save` or of safetensors, also inside a checkpoint.

    Args:
        part: of a checkpoint that holds several: the keys that lead to one, or a prefix that its
            tensors' names have; "": the one that is usual. The log names the others.

    Raises:
        ValueError: more than tensors and plain data in it (named; nothing of it was run), no
            state_dict, or no such part.
    """
    if path.suffix == ".safetensors":
        loaded: Any = eager.read(path)
        names: list[str] = []
    else:
        loaded, names = _load(path)
    states = dict(_states(loaded))
    usual = _inside(loaded)
    if part:
        return _part(states, usual, part, path)
    if not _is_state(usual) and names:
        raise ValueError(more_than_tensors(path, names))
    state = eager.check_state(usual, path.name)
    taken = next((name for name, one in states.items() if one is usual), "")
    others = [n for n, one in states.items() if one is not usual and 2 * len(one) > len(state)]
    if others and taken:
        logger.warning(
            "%s: the weights under %s are taken; it also holds %s (--weights %s:%s)",
            *(path.name, taken, ", ".join(others), path.name, others[0]),
        )
    return state


def _load(path: Path) -> tuple[Any, list[str]]:
    with warnings.catch_warnings():
        # Of what other programs pickled torch says that it may not know it all, and raises then.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        try:
            return eager.load_pickle(path), []
        except ValueError as error:
            if "more than tensors" not in str(error):
                raise
        return plain_data.load(path)


def _part(states: Mapping[str, Any], usual: Any, part: str, path: Path) -> dict[str, Tensor]:
    if part in states:
        return dict(states[part])
    prefix = f"{part.rstrip('.')}."
    found = {key: value for key, value in states.items() if key.startswith(prefix)}
    if len(found) == 1:
        return dict(next(iter(found.values())))
    named = usual if _is_state(usual) else {}
    short = {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}
    if not short:
        raise ValueError(
            f"{path.name} has no part {part!r}: it holds "
            f"{', '.join(name for name in states if name) or 'one state_dict'}"
        )
    return short


def _states(loaded: Any, path: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """Every state_dict in a checkpoint, by the keys that lead to it."""
    if _is_state(loaded):
        yield path, loaded
    elif isinstance(loaded, Mapping) and depth:
        for key, value in loaded.items():
            if isinstance(key, str) and not key.startswith(("optim", "lr_sched", "scaler")):
                yield from _states(value, f"{path}.{key}" if path else key, depth - 1)


def _inside(loaded: Any, depth: int = DEPTH) -> Any:
    """The state_dict of a checkpoint, or what stands there instead of one."""
    if _is_state(loaded) or not isinstance(loaded, Mapping) or not depth:
        return loaded
    named = [loaded[key] for key in INSIDE if isinstance(loaded.get(key), Mapping) and loaded[key]]
    # Under another name, where there is no choice between two.
    found = named[:1] or [value for value in loaded.values() if _is_state(value)]
    return _inside(found[0], depth - 1) if len(found) == 1 else loaded


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
    """Fills a module; keys may have the prefixes that wrappers leave.

    DistributedDataParallel leaves `module.`, torch.compile `_orig_mod.`, a Lightning module the
    name of its attribute, and one wrapper may hold another.

    Args:
        labels: that the module was built for, to be named where their number does not fit.

    Raises:
        ValueError: keys or shapes that do not fit, by name.
    """
    places = module.state_dict()
    fitting = unwrapped(state, set(places), source)
    for key, place in places.items():
        if _counts(key) and key not in fitting:
            fitting[key] = place
    try:
        eager.fill(module, fitting, source)
    except ValueError as error:
        raise ValueError(f"{error}{_other_classes(fitting, places, labels)}") from None


def unwrapped(
    state: Mapping[str, Tensor], places: set[str], source: str = "the weights"
) -> dict[str, Tensor]:
    """The same tensors under the keys that the places have, as far as a prefix is all between them.

    Where the keys with one prefix fill all places, other tensors (a loss's weights, an average of
    the model) are left out, and the log names them. A key that has no such prefix stays as it is.
    """
    plain = dict(state)
    for wrapper in WRAPPERS:
        shorter = {key.replace(wrapper, ""): value for key, value in plain.items()}
        if len(shorter) == len(plain) and not any(wrapper in place for place in places):
            plain = shorter
    needed = {place for place in places if not _counts(place)}
    if needed <= set(plain):
        losses = [key for key in plain if key not in places and LOSSES.match(key)]
        return _without(plain, losses, source)
    prefixes = Counter(
        key[: -len(place)]
        for key in plain
        for place in _endings(key)
        if place in needed and place != key
    )
    whole = [prefix for prefix, count in prefixes.items() if count >= len(needed)]
    if whole:
        prefix = min(whole, key=lambda one: AVERAGED.search(one) is not None)
        others = [key for key in plain if not key.startswith(prefix)]
        averages = [one.rstrip(".") for one in whole if one != prefix]
        if averages:
            logger.warning(
                "%s: the weights under %s are taken; it also holds %s (--weights FILE:%s)",
                *(source, prefix.rstrip("."), ", ".join(averages), averages[0]),
            )
        kept = _without(plain, others, source, told=not averages)
        return {key.removeprefix(prefix): value for key, value in kept.items()}
    for prefix, count in prefixes.most_common(1):
        short = {key.removeprefix(prefix): value for key, value in plain.items()}
        # Half a fit is none: then the keys are named as they came.
        if (
            count > len(places & set(plain))
            and len(short) == len(plain)
            and all(key.startswith(prefix) for key in plain)
        ):
            return short
    return plain


def _without(
    state: Mapping[str, Tensor], left_out: Sequence[str], source: str, *, told: bool = True
) -> dict[str, Tensor]:
    if left_out and told:
        more = f" and {len(left_out) - 4} more" if len(left_out) > 4 else ""
        logger.warning(
            "%s: not part of the model, left out: %s%s", source, ", ".join(left_out[:4]), more
        )
    return {key: value for key, value in state.items() if key not in set(left_out)}


def _counts(key: str) -> bool:
    return key.rpartition(".")[2] == COUNTER


def _endings(key: str) -> list[str]:
    """a.b.c: a.b.c, b.c, c."""
    parts = key.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _other_classes(
    state: Mapping[str, Tensor], places: Mapping[str, Tensor], labels: Sequence[str] | None
) -> str:
    """A hint, where all that differs is the number of classes."""
    different = [
        (state[key].shape, places[key].shape)
        for key in state
        if key in places and state[key].shape != places[key].shape
    ]
    if not labels or not different:
        return ""
    classes = {len(given) and given[0] for given, _ in different}
    same = all(len(a) == len(b) and a[1:] == b[1:] for a, b in different)
    if same and len(classes) == 1 and all(b[0] == len(labels) for _, b in different):
        return (
            f". The weights know {classes.pop()} classes, and there are {len(labels)} labels: "
            "name theirs with --labels FILE, one a line in the classes' order"
        )
    return ""
