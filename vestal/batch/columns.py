"""An answer as the columns of a table, named as people look for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# What stands first, and what a failed row has; between them comes what the model says.
FIRST = ("file", "row")
LAST = ("status", "error_type", "error_message")
SAID = (
    *("actual", "predicted", "predicted_index", "probability"),
    *("units", "completion", "finish_reason", "prompt_tokens", "completion_tokens"),
    "answer",
)
RESULTS = (*FIRST, *SAID, *LAST)


def columns_of(answer: Any) -> dict[str, Any]:
    """A classifier's, regressor's or generator's answer by column; another one whole, as JSON."""
    if isinstance(answer, Mapping):
        if {"label", "probability", "top"} <= answer.keys():
            index = {"predicted_index": answer["index"]} if "index" in answer else {}
            return {"predicted": answer["label"], **index, "probability": answer["probability"]}
        if "prediction" in answer:
            return {"predicted": answer["prediction"], "units": answer.get("units")}
        if "finish_reason" in answer:
            counts = ("finish_reason", "prompt_tokens", "completion_tokens")
            named = {name: answer[name] for name in counts if name in answer}
            return {"completion": answer.get("text"), **named}
    return {"answer": json.dumps(answer, ensure_ascii=False)}


def jsonl_of(answer: Any) -> dict[str, Any]:
    """As `columns_of`, with all of the answer beside it."""
    return {**columns_of(answer), "answer": answer}
