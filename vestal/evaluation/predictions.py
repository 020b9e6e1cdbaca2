"""Test examples as request bodies, and responses as predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vestal.client.encoding import BYTES, IMAGES
from vestal.errors import VestalError
from vestal.recipes.objectives import Classification, NextToken, Regression
from vestal.recipes.recipe import Examples, Recipe
from vestal.recipes.request_body import RequestBody, body_of, json_body
from vestal.training.image_folders import ImageFiles

# Called with the number of finished inputs.
Progress = Callable[[int], object]


@dataclass(frozen=True)
class RefusedInput:
    """An input without a prediction; `status`: the HTTP status, None without a response."""

    status: int | None
    type: str
    message: str


class Label(str):
    """A predicted label, with the index of its class if the response contains it."""

    class_index: int | None

    def __new__(cls, text: str, index: int | None = None) -> Label:
        label = super().__new__(cls, text)
        label.class_index = index
        return label


# A label (None below the minimum score), a number, log-probabilities, or no prediction.
Outcome = str | None | float | list[float] | RefusedInput


def request_body(recipe: Recipe, examples: Examples, index: int) -> RequestBody:
    """The request body of an example: the bytes of an image file, or a lossless encoding."""
    if isinstance(examples, ImageFiles):
        file = examples.files[index]
        suffix = file.suffix.lower()
        return RequestBody(file.read_bytes(), IMAGES.get(suffix, BYTES), suffix)
    value = examples[index][0]
    if isinstance(recipe.objective, NextToken):
        return json_body({"prompt": value, "score": True})
    return body_of(recipe.task, value)


def target_at(examples: Examples, index: int) -> Any:
    """The target of an example, without decoding an image file."""
    if isinstance(examples, ImageFiles):
        return examples.classes[index]
    return examples[index][1]


def read_prediction(recipe: Recipe, response: Any, source: str) -> str | float | list[float] | None:
    """The prediction in a handler's response.

    Raises:
        VestalError: not a response for this kind of model.
    """
    try:
        if isinstance(recipe.objective, Classification):
            label = response["label"]
            return None if label is None else Label(label, response.get("index"))
        if isinstance(recipe.objective, Regression):
            return float(response["prediction"])
        # The first token has no log-probability.
        return [float(value) for value in response["logprobs"][1:]]
    except (KeyError, TypeError, ValueError):
        raise VestalError(
            f"{source} responds {str(response)[:120]}, unlike Vestal's handler "
            f"for the task {recipe.task}; if it is another model, pass its recipe with --recipe"
        ) from None
