"""Requests that exceed the time or the memory of a batch fail; the others are predicted."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from folders import as_json, handler_of
from imaging import encoded, seven

from vestal_handlers.errors import is_out_of_memory
from vestal_handlers.images.decoding import read_image


def test_nothing_is_decoded_after_the_deadline(doubler, monkeypatch):
    handler = handler_of(doubler)
    decode = handler.decode

    def slow(instance):
        if instance.payload != 1:
            time.sleep(max(0.0, handler.deadline - time.monotonic()) + 0.01)
        return decode(instance)

    monkeypatch.setattr(handler, "decode", slow)
    monkeypatch.setitem(handler.config, "responseTimeout", 2)
    many = as_json({"instances": [2] * 10})
    answers = doubler.predict([many, as_json(1)])
    codes = [one.get("code", 200) for one in answers[0].json()["predictions"]]
    # The request of one instance goes first; each thread finishes the instance that it has begun.
    assert answers[1].status == 200
    assert codes[handler.threads :] == [500] * (10 - handler.threads)
    assert (
        "the time limit of this batch has passed" in answers[0].json()["predictions"][-1]["message"]
    )


def test_no_forward_pass_begins_after_the_deadline(doubler, monkeypatch):
    handler = handler_of(doubler)
    forward = handler.forward

    def slow(samples):
        if len(samples) == 64:
            time.sleep(max(0.0, handler.deadline - time.monotonic()) + 0.01)
        return forward(samples)

    monkeypatch.setattr(handler, "forward", slow)
    monkeypatch.setitem(handler.config, "responseTimeout", 2)
    answers = doubler.predict([as_json({"instances": [0.25] * 100}), as_json(1)])
    assert answers[1].status == 200
    assert answers[0].headers["x-failed-instances"] == "37"


def allocate(*_):
    return torch.empty(2**50)


@pytest.mark.parametrize("step", ["decode", "forward", "encode", "explain"])
def test_a_failed_allocation_is_507_at_every_step(doubler, monkeypatch, step):
    handler = handler_of(doubler)
    own = getattr(handler, step)

    def fail(first, *rest):
        value = getattr(first, "payload", first)
        culprit = [2.0] if step == "forward" else (4.0 if step == "encode" else 2.0)
        if step == "forward":
            bad = any(float(sample) == 2 for sample in first)
        else:
            bad = not isinstance(value, list) and float(value) == culprit
        return allocate() if bad else own(first, *rest)

    monkeypatch.setattr(handler, step, fail)
    headers = {"explain": "True"} if step == "explain" else {}
    answers = doubler.predict([as_json(1), as_json(2, **headers), as_json(3)])
    assert [answer.status for answer in answers] == [200, 507, 200]
    assert answers[1].json()["type"] == "OutOfMemory"


def test_failed_allocations_of_every_library_are_recognized():
    for attempt in (allocate, lambda: np.empty(2**50), lambda: [0] * 2**50):
        with pytest.raises((RuntimeError, MemoryError)) as failed:
            attempt()
        assert is_out_of_memory(failed.value)
    assert not is_out_of_memory(ValueError("no memory of it"))


def test_a_decoder_without_memory_is_not_reported_as_a_corrupt_image(monkeypatch):
    def fail(*_, **__):
        return torch.empty(2**50)

    monkeypatch.setattr("vestal_handlers.images.decoding.decode_image", fail)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        read_image(encoded(seven(), "JPEG"), "L")
