"""Compare two responses to the same input: statuses, labels, texts and numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vestal.mar.sample import by_label, distance_of, find_difference


@dataclass(frozen=True)
class Answer:
    """A response.

    `value`: its JSON value without request IDs and the model's version; its bytes if not JSON.
    """

    status: int
    value: Any

    @classmethod
    def of(cls, status: int, body: bytes) -> Answer:
        """Parse the body of a response."""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return cls(status, body)
        several = value.get("predictions") if isinstance(value, dict) else value
        for one in [value, *(several if isinstance(several, list) else [])]:
            if isinstance(one, dict):
                one.pop("request_id", None)
        if isinstance(value, dict) and "outputs" in value:  # Open Inference Protocol v2
            value.pop("model_version", None)
        return cls(status, value)


@dataclass(frozen=True)
class Difference:
    """What differs between two responses.

    Attributes:
        difference: a sentence about the first difference; None: they are equal.
        status: the statuses differ; nothing else is compared then.
        labels: the labels that differ, before and after.
        text: another text differs.
        probability: the largest difference between probabilities of the same label; None: both
            responses have no such probability.
        value: the largest difference between other numbers, such as a regressor's predictions.
    """

    difference: str | None
    status: bool = False
    labels: tuple[tuple[Any, Any], ...] = ()
    text: bool = False
    probability: float | None = None
    value: float | None = None

    @property
    def grave(self) -> bool:
        """Status, label or text differs, not only a number."""
        return self.status or bool(self.labels) or self.text


def compare_answers(before: Answer, after: Answer, tolerance: float) -> Difference:
    """Compare two responses.

    Args:
        tolerance: largest accepted difference of two numbers, relative for numbers above 1.
    """
    if before.status != after.status:
        return Difference(f"status is {after.status}, was {before.status}", status=True)
    old, new = _in_one_format(before.value, after.value)
    labels: list[tuple[Any, Any]] = []
    text = False
    probability: float | None = None
    value: float | None = None
    for key, left, right in _leaves(old, new):
        if _is_number(left) and _is_number(right):
            if key == "probability":
                probability = larger(probability, distance_of(left, right))
            else:
                value = larger(value, distance_of(left, right))
        elif left != right:
            if key == "label":
                labels.append((left, right))
            else:
                text = text or (isinstance(left, str) and isinstance(right, str))
    difference = _difference(old, new, tolerance)
    return Difference(difference, False, tuple(labels), text, probability, value)


def larger(left: float | None, right: float | None) -> float | None:
    """Return the larger of two numbers; None if both are None."""
    return max((each for each in (left, right) if each is not None), default=None)


def _difference(old: Any, new: Any, tolerance: float) -> str | None:
    if isinstance(old, bytes) or isinstance(new, bytes):
        return None if old == new else "the bytes differ"
    return find_difference(old, new, tolerance)


def _in_one_format(old: Any, new: Any) -> tuple[Any, Any]:
    """Convert two classifications if one is Vestal's and the other TorchServe's.

    The results have the most probable label, and the probabilities of the labels that both have.
    """
    ours = _top(old), _top(new)
    others = [value if _are_probabilities(value) else None for value in (old, new)]
    left, right = (ours[0] or others[0]), (ours[1] or others[1])
    if left is None or right is None or (ours[0] is None) == (ours[1] is None):
        return old, new
    shared = sorted(left.keys() & right.keys())
    converted = [
        {
            "label": max(side, key=side.__getitem__),
            "top": [{"label": name, "probability": side[name]} for name in shared],
        }
        for side in (left, right)
    ]
    return converted[0], converted[1]


def _top(value: Any) -> dict[str, float] | None:
    """The probabilities by label of Vestal's image and text classifiers."""
    top = value.get("top") if isinstance(value, dict) else None
    entries = by_label(top) if isinstance(top, list) else None
    if not entries or not all(_is_number(each.get("probability")) for each in entries.values()):
        return None
    return {label: entry["probability"] for label, entry in entries.items()}


def _leaves(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield key, old and new of the values that both have; labelled items are paired by label."""
    if isinstance(old, dict) and isinstance(new, dict):
        if _is_tensor(old) and _is_tensor(new) and old["name"] == new["name"]:
            yield from _leaves(old["data"], new["data"], str(old["name"]))
            return
        # A single number with the same name on both sides is a value, such as a prediction.
        several = len(old) > 1 or old.keys() != new.keys()
        if several and _are_probabilities(old) and _are_probabilities(new):
            yield "label", max(old, key=old.__getitem__), max(new, key=new.__getitem__)
            for name in old.keys() & new.keys():
                yield "probability", old[name], new[name]
            return
        for name in old.keys() & new.keys():
            # These two belong to the label: those of different labels are not comparable.
            of_label = name in ("probability", "index") and "label" in old
            if not (of_label and old["label"] != new.get("label")):
                yield from _leaves(old[name], new[name], str(name))
    elif isinstance(old, list) and isinstance(new, list):
        left_by, right_by = by_label(old), by_label(new)
        if left_by is not None and right_by is not None:
            for label in left_by.keys() & right_by.keys():
                yield from _leaves(left_by[label], right_by[label], key)
        else:
            for left, right in zip(old, new, strict=False):
                yield from _leaves(left, right, key)
    else:
        yield key, old, new


def _is_tensor(value: dict[str, Any]) -> bool:
    """Whether it is an output of the Open Inference Protocol v2."""
    return "datatype" in value and "name" in value and "data" in value


def _are_probabilities(value: Any) -> bool:
    """Whether it is {label: probability, ...}, the format of TorchServe's own classifiers."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(_is_number(one) and 0 <= one <= 1 for one in value.values())
        and sum(value.values()) < 1.01
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
