"""The labels of classes in index_to_name.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 5  # shared labels in a message


def labels_in(names: Mapping[str, Any]) -> list[str]:
    """The label of each class, by its index.

    TorchServe's file for ImageNet has a list for each class, `["n02012849", "crane"]`; the last
    item is the label, as in TorchServe's own handlers.

    Raises:
        KeyError: an index is missing.
    """
    values = [names[str(index)] for index in range(len(names))]
    return [str(value[-1] if isinstance(value, list) and value else value) for value in values]


def indices_by_label(labels: Sequence[str]) -> dict[str, list[int]]:
    """The indices of the classes of each label."""
    indices: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        indices.setdefault(label, []).append(index)
    return indices


def shared_labels(labels: Sequence[str]) -> str | None:
    """A warning about labels that several classes share; None if there are none."""
    shared = [
        f"{label} ({', '.join(map(str, indices))})"
        for label, indices in indices_by_label(labels).items()
        if len(indices) > 1
    ]
    if not shared:
        return None
    more = ", ..." if len(shared) > _SHOWN else ""
    what = "label names" if len(shared) == 1 else "labels name"
    return (
        f"{len(shared)} {what} several classes: {', '.join(shared[:_SHOWN])}{more}. Predictions "
        "carry the class index, which tells them apart."
    )
