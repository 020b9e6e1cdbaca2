"""The spans of a text that most probably answer a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Encoding
from torch import Tensor
from torch.nn.functional import pad

from vestal_handlers.errors import InputError
from vestal_handlers.options import Options, number
from vestal_handlers.requests.schema_parts import PROBABILITY, list_of, object_of

_PLACE = {"type": ["integer", "null"], "minimum": 0}
_FIELDS: dict[str, Any] = {"answer": {"type": ["string", "null"]}, "probability": PROBABILITY}
_FIELDS |= {"start": _PLACE, "end": _PLACE}
PREDICTION_SCHEMA = object_of({**_FIELDS, "top": list_of(object_of(_FIELDS))})


@dataclass(frozen=True, kw_only=True)
class SpanOptions(Options):
    """
    Attributes:
        top_k: the number of answers in a prediction, unless the request has its own.
        max_top_k: the maximum that a request may set.
        stride: tokens that two windows of a long context share.
        max_answer_tokens: tokens of an answer.
        no_answer: the model was trained to find that a context has no answer (SQuAD 2.0).
    """

    top_k: int = number(1, at_least=1)
    max_top_k: int = number(100, at_least=1)
    stride: int = number(128, at_least=0)
    max_answer_tokens: int = number(30, at_least=1)
    no_answer: bool = False


def check_words(question: str, windows: Sequence[Encoding]) -> None:
    """Raise InputError 422 if the question or the context has no tokens."""
    if not question.strip():
        raise InputError(422, "field 'question' has no words")
    if 1 not in windows[0].sequence_ids:
        raise InputError(422, "field 'context' has no words")


def best_answers(
    context: str,
    windows: Sequence[Encoding],
    logits: Sequence[Tensor],
    count: int,
    options: SpanOptions,
) -> list[dict[str, Any]]:
    """The most probable answers, the best first; at least one, which may be that there is none.

    Args:
        windows: of the question and the context, in this order.
        logits: [2, T] of each window: of the first and the last token of the answer.
        count: the maximum number of answers.
    """
    found: dict[tuple[int, int], float] = {}
    nothing = 1.0
    for window, scores in zip(windows, logits, strict=True):
        inside = torch.tensor([number == 1 for number in window.sequence_ids])
        first, last = _probabilities(scores, inside, options.no_answer)
        nothing = min(nothing, float(first[0] * last[0]) if options.no_answer else 0.0)
        for start, end, probability in _spans(first, last, inside, options, count):
            place = window.offsets[start][0], window.offsets[end][1]
            if place[0] < place[1]:
                found[place] = max(probability, found.get(place, 0.0))
    answers: list[dict[str, Any]] = [
        {"answer": context[start:end], "probability": probability, "start": start, "end": end}
        for (start, end), probability in found.items()
    ]
    if options.no_answer or not answers:
        answers.append({"answer": None, "probability": nothing, "start": None, "end": None})
    return sorted(answers, key=lambda answer: -answer["probability"])[:count]


def _probabilities(logits: Tensor, inside: Tensor, no_answer: bool) -> Tensor:
    """Probabilities [2, T], 0 outside of the context; the first token stands for no answer."""
    possible = inside.clone()
    possible[0] |= no_answer
    return logits.float().masked_fill(~possible, -torch.inf).softmax(-1)


def _spans(
    first: Tensor, last: Tensor, inside: Tensor, options: SpanOptions, count: int
) -> Iterator[tuple[int, int, float]]:
    """The first and the last token, and the probability, of the best spans of a window."""
    size = min(options.max_answer_tokens, len(inside))
    # Row `start` has the spans that end at `start`, `start + 1`, ...
    ends = pad(torch.where(inside, last, -1), (0, size - 1), value=-1).unfold(0, size, 1)
    starts = torch.where(inside, first, -1)[:, None]
    spans = torch.where((starts < 0) | (ends < 0), -1, starts * ends).flatten()
    best = spans.topk(min(count, len(spans)))
    for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if value >= 0:
            yield place // size, place // size + place % size, value
