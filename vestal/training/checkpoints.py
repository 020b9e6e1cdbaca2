"""Somebody else's checkpoint: the state_dict in it, and its keys without what wrappers add.

Nothing is unpickled but tensors and plain values.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vestal_handlers.engines import eager

# Where checkpoints keep the state_dict, the usual names first.
INSIDE = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
# What torch.compile and activation checkpointing put before the keys of a part, anywhere.
WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
DEPTH = 3  # {"model": {"state_dict": ...}} has been seen
# BatchNorm's count of batches: files from before torch 0.4.1 and from other tools lack it, and
# nothing that is served reads it.
COUNTER = "num_batches_tracked"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state_dict in a file of `torch.save` or of safetensors, also inside a checkpoint.

    Raises:
        ValueError: more than tensors in it (named; nothing of it was run), or no state_dict.
    """
    if path.suffix == ".safetensors":
        return eager.read(path)
    with warnings.catch_warnings():
        # Of what other programs pickled torch says that it may not know it all, and raises then.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        loaded = eager.load_pickle(path)
    return eager.check_state(_inside(loaded), path.name)


def _inside(loaded: Any, depth: int = DEPTH) -> Any:
    """The state_dict of a checkpoint, or what stands there instead of one."""
    if _is_state(loaded) or not isinstance(loaded, Mapping) or not depth:
        return loaded
    named = [loaded[key] for key in INSIDE if isinstance(loaded.get(key), Mapping)]
    # Under another name, where there is no choice between two.
    found = named[:1] or [value for value in loaded.values() if _is_state(value)]
    return _inside(found[0], depth - 1) if len(found) == 1 else loaded


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
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
    fitting = unwrapped(state, set(places))
    for key, place in places.items():
        if _counts(key) and key not in fitting:
            fitting[key] = place
    try:
        eager.fill(module, fitting, source)
    except ValueError as error:
        raise ValueError(f"{error}{_other_classes(fitting, places, labels)}") from None


def unwrapped(state: Mapping[str, Tensor], places: set[str]) -> dict[str, Tensor]:
    """The same tensors under the keys that the places have, as far as a prefix is all between them.

    A key that has no such prefix stays as it is.
    """
    plain = dict(state)
    for wrapper in WRAPPERS:
        shorter = {key.replace(wrapper, ""): value for key, value in plain.items()}
        if len(shorter) == len(plain) and not any(wrapper in place for place in places):
            plain = shorter
    prefixes = Counter(
        key[: -len(place)]
        for key in plain
        for place in _endings(key)
        if place in places and place != key
    )
    for prefix, count in prefixes.most_common(1):
        short = {key.removeprefix(prefix): value for key, value in plain.items()}
        # Half a fit is none: then the keys are named as they came.
        whole = count >= len([place for place in places if not _counts(place)])
        if (
            count > len(places & set(plain))
            and len(short) == len(plain)
            and (whole or all(key.startswith(prefix) for key in plain))
        ):
            return short
    return plain


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
