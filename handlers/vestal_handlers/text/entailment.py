"""Labels of a text as hypotheses, which a model for entailment finds to follow from it or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vestal_handlers.errors import InputError
from vestal_handlers.options import Options, number
from vestal_handlers.requests.schema_parts import PROBABILITY, TEXT, list_of, object_of

_FIELDS = {"label": TEXT, "probability": PROBABILITY}
PREDICTION_SCHEMA = object_of({**_FIELDS, "top": list_of(object_of(_FIELDS))})
_PLACE = "{}"


@dataclass(frozen=True, kw_only=True)
class EntailmentOptions(Options):
    """
    Attributes:
        candidate_labels: the only labels that requests may name, and those of a request that names
            none.
        max_labels: labels of one request; each takes one row of a forward pass.
        hypothesis_template: the sentence about a label, in place of `{}`, unless the request has
            its own.
    """

    candidate_labels: list[str] | None = None
    max_labels: int = number(50, at_least=1)
    hypothesis_template: str = "This example is {}."


class Entailment:
    """The labels of a model for entailment.

    Args:
        label2id: the indices of its labels.

    Raises:
        ValueError: there is no label for entailment, or an option is not valid.
    """

    def __init__(self, label2id: Mapping[str, int], options: EntailmentOptions) -> None:
        labels = {label.lower(): index for label, index in label2id.items()}
        found = [index for label, index in labels.items() if label.startswith("entail")]
        if not found:
            raise ValueError(f"the model has no label for entailment, only {', '.join(labels)}")
        if options.hypothesis_template.count(_PLACE) != 1:
            raise ValueError("handler.hypothesis_template needs {} once, in the place of the label")
        self._entailment = int(found[0])
        self._contradiction = -1 if self._entailment == 0 else 0
        self._options = options

    def labels_schema(self) -> dict[str, Any]:
        """JSON Schema of the labels of a request."""
        own, most = self._options.candidate_labels, self._options.max_labels
        item: dict[str, Any] = {"type": "string", "minLength": 1} if own is None else {"enum": own}
        return {"type": "array", "items": item, "minItems": 1, "maxItems": most}

    def hypotheses(self, request: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """The labels of a valid request, and the sentence about each of them.

        Raises:
            InputError: 422, the template has no place for the label, or several.
        """
        labels = request.get("candidate_labels") or self._options.candidate_labels or []
        template: str = request.get("hypothesis_template", self._options.hypothesis_template)
        if template.count(_PLACE) != 1:
            raise InputError(
                422, "field 'hypothesis_template' needs {} once, in the place of the label"
            )
        return labels, [template.replace(_PLACE, label) for label in labels]

    def ranked(
        self, labels: Sequence[str], logits: Tensor, multi_label: bool
    ) -> list[dict[str, Any]]:
        """The labels with their probabilities, the best first.

        Args:
            logits: [labels, classes].
            multi_label: whether each label has a probability of its own, against contradiction.
        """
        if multi_label or len(labels) == 1:
            pairs = logits[:, [self._contradiction, self._entailment]]
            values = pairs.softmax(-1)[:, 1].tolist()
        else:
            values = logits[:, self._entailment].softmax(0).tolist()
        best = sorted(zip(labels, values, strict=True), key=lambda each: -each[1])
        return [{"label": label, "probability": value} for label, value in best]
