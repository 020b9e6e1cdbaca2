"""What a test input is asked as, and what its answer says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vestal.client.encoding import BYTES, IMAGES
from vestal.errors import VestalError
from vestal.recipes.objectives import Classification, NextToken, Regression
from vestal.recipes.recipe import Examples, Recipe
from vestal.recipes.request_body import Body, body_of, json_body
from vestal.training.image_folders import ImageFiles

# Called with the number of inputs that are done.
Progress = Callable[[int], object]


@dataclass(frozen=True)
class RefusedInput:
    """An input without an answer; `status`: the HTTP one, None where none came."""

    status: int | None
    type: str
    message: str


class Label(str):
    """A label that a model predicted, with the index of its class where the answer states it."""

    class_index: int | None

    def __new__(cls, text: str, index: int | None = None) -> Label:
        made = super().__new__(cls, text)
        made.class_index = index
        return made


# A label (None: the model is not sure enough), a number, log-probabilities, or no answer.
Said = str | None | float | list[float] | RefusedInput


def body_at(recipe: Recipe, examples: Examples, index: int) -> Body:
    """The request for one example: an image file as it is, everything else without loss."""
    if isinstance(examples, ImageFiles):
        file = examples.files[index]
        suffix = file.suffix.lower()
        return Body(file.read_bytes(), IMAGES.get(suffix, BYTES), suffix)
    given = examples[index][0]
    if isinstance(recipe.objective, NextToken):
        return json_body({"prompt": given, "score": True})
    return body_of(recipe.task, given)


def target_at(examples: Examples, index: int) -> Any:
    """The truth about one example; an image file is not decoded for it."""
    if isinstance(examples, ImageFiles):
        return examples.classes[index]
    return examples[index][1]


def read_answer(recipe: Recipe, answer: Any, source: str) -> str | float | list[float] | None:
    """What a handler's answer says.

    Raises:
        VestalError: it is not the answer of a handler for this kind of model.
    """
    try:
        if isinstance(recipe.objective, Classification):
            label = answer["label"]
            return None if label is None else Label(label, answer.get("index"))
        if isinstance(recipe.objective, Regression):
            return float(answer["prediction"])
        # Nothing stands before the first token: it has no log-probability.
        return [float(value) for value in answer["logprobs"][1:]]
    except (KeyError, TypeError, ValueError):
        raise VestalError(
            f"{source} answers {str(answer)[:120]}, not as Vestal's handler of the task "
            f"{recipe.task} does: is it another model? (--recipe NAME says which recipe fits)"
        ) from None
