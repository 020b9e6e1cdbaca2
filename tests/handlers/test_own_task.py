"""The handler in docs/concepts/requests.md, in an archive."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from folders import as_json, ask, write_archive
from jsonschema import Draft202012Validator
from torch import nn

from vestal.inprocess import Input, LoadedArchive
from vestal_handlers.base import BatchHandler

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "requests.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def summing():
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Flatten(0))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    return model


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = write_archive(tmp_path_factory.mktemp("scorer"), "scorer", summing())
    for name, code in zip(("scorer.py", "handler.py"), BLOCKS, strict=False):
        (folder / name).write_text(code)
    with LoadedArchive(folder) as loaded:
        yield loaded


def test_the_task_predicts_and_a_bad_request_fails_alone(scorer):
    bad = [as_json([1, 2, 3]), as_json([1, 2, 3, "x"]), Input.raw(b"{", "application/json")]
    answers = scorer.predict([as_json([1, 2, 3, 4]), *bad, as_json([[1, 0, 0, 0], [0, 2, 0, 0]])])
    assert [answer.status for answer in answers] == [200, 422, 422, 400, 200]
    assert answers[0].json() == {"score": 10.0}
    assert answers[1].json()["message"] == "the row must have exactly 4 items, got 3"
    assert answers[4].json() == {"predictions": [{"score": 1.0}, {"score": 2.0}]}


def test_the_task_describes_its_input(scorer):
    description = ask(scorer, Input({}, {"describe": "True"})).json()
    assert description["handler"] == "Scorer"
    Draft202012Validator(description["input"]).validate([1, 2, 3, 4])


def test_the_task_has_at_most_forty_lines():
    assert len(BLOCKS[0].splitlines()) <= 40


def test_handle_fits_on_a_screen_and_is_annotated():
    assert len(inspect.getsource(BatchHandler.handle).splitlines()) <= 24
    for step in ("handle", "preprocess", "inference", "postprocess"):
        signature = inspect.signature(getattr(BatchHandler, step))
        named = [one for name, one in signature.parameters.items() if name != "self"]
        kinds = [signature.return_annotation, *(one.annotation for one in named)]
        assert inspect.Signature.empty not in kinds
