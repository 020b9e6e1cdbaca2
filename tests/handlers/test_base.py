"""The base handler for every task: failures of decode, forward and encode."""

from __future__ import annotations

import json
import os
import shutil
import threading

import pytest

from vestal.errors import VestalError
from vestal.inprocess import Input, LoadedArchive


@pytest.fixture
def doubler(doubler_folder):
    with LoadedArchive(doubler_folder) as loaded:
        yield loaded


def send(loaded, *values):
    batch = [Input.raw(json.dumps(value).encode(), "application/json") for value in values]
    return loaded.predict(batch)


def test_a_failing_input_is_found_by_halving_the_batch(doubler):
    answers = send(doubler, 1, 2, 13, 4, 6, 12, 10, 11)
    assert [answer.status for answer in answers] == [200, 200, 500, 200, 200, 200, 200, 200]
    assert [a.json()["doubled"] for a in answers if a.status == 200] == [2, 4, 8, 12, 24, 20, 22]
    assert answers[2].json()["type"] == "HandlerError"
    # the message of the exception is only in the log
    assert "thirteen" not in answers[2].body.decode()


def test_two_failing_inputs_are_both_found(doubler):
    statuses = [answer.status for answer in send(doubler, 13, 1, 2, 13)]
    assert statuses == [500, 200, 200, 500]


def test_a_batch_out_of_memory_is_halved(doubler):
    answers = send(doubler, 1, 2, 99, 4, 6, 8.5)
    assert [answer.status for answer in answers] == [200] * 6
    assert answers[2].json() == {"doubled": 198}


def test_a_request_too_large_even_alone_gets_507(doubler):
    answers = send(doubler, 1, 100, 2)
    assert [answer.status for answer in answers] == [200, 507, 200]
    assert answers[1].json()["type"] == "OutOfMemory"


def test_an_exception_in_decode_fails_only_its_request(doubler):
    answers = send(doubler, 1, "broken decode", 2)
    assert [answer.status for answer in answers] == [200, 500, 200]
    assert "secret" not in answers[1].body.decode()
    assert "failed at decode (KeyError)" in answers[1].json()["message"]


def test_an_exception_in_encode_fails_only_its_request(doubler):
    assert [answer.status for answer in send(doubler, 1, 7, 2)] == [200, 500, 200]


def test_a_prediction_of_nan_is_an_error(doubler):
    answers = send(doubler, 1, 8, 2)
    assert [answer.status for answer in answers] == [200, 500, 200]


def test_an_output_of_infinity_is_an_error(doubler):
    answers = send(doubler, 1, 5, 2)
    assert [answer.status for answer in answers] == [200, 500, 200]
    assert "not finite" in answers[1].json()["message"]


def test_a_wrong_number_of_outputs_fails_only_its_request(doubler):
    assert [answer.status for answer in send(doubler, 1, 3.5, 2)] == [200, 500, 200]


def test_an_output_may_be_a_request_failure(doubler):
    answers = send(doubler, 1, 17, 2)
    assert [answer.status for answer in answers] == [200, 422, 200]
    assert answers[1].json()["message"] == "not 17"


def test_a_fatal_cuda_error_fails_the_batch_and_ends_the_worker(doubler, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    answers = send(doubler, 1, 101, 2)
    assert [answer.status for answer in answers] == [500] * 3
    assert ended.wait(10)


def test_more_instances_than_max_forward_take_several_passes(doubler):
    handler = doubler._service._entry_point.__self__
    handler.sizes.clear()
    (answer,) = send(doubler, {"instances": [0.25] * 200})
    assert len(answer.json()["predictions"]) == 200
    assert handler.sizes == [64, 64, 64, 8]


def test_the_search_for_failing_inputs_ends_at_the_deadline(doubler, monkeypatch):
    handler = doubler._service._entry_point.__self__
    monkeypatch.setitem(handler.config, "responseTimeout", 1e-9)
    statuses = [answer.status for answer in send(doubler, 1, 13, 2, 4)]
    assert statuses == [500] * 4


def test_the_log_has_the_request_id_and_the_traceback(doubler, caplog):
    send(doubler, 1, 13)
    assert "request local-1 failed at forward" in caplog.text
    assert "thirteen" in caplog.text


def test_the_warm_up_runs_every_batch_size(doubler):
    handler = doubler._service._entry_point.__self__
    assert set(handler.sizes) >= set(range(1, 9))


def test_a_failed_warm_up_fails_the_load(doubler_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(doubler_folder, broken)
    code = (broken / "handler.py").read_text().replace("torch.zeros(())", "torch.tensor(13.0)")
    (broken / "handler.py").write_text(code)
    with pytest.raises(VestalError, match=r"doubler 1\.0 did not load: thirteen"):
        LoadedArchive(broken)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("handler: {threds: 1}", "handler.threds .* did you mean threads"),
        ("handler: {engine: tensorflow}", "no engine 'tensorflow'"),
    ],
)
def test_an_invalid_option_fails_the_load(doubler_folder, tmp_path, config, message):
    broken = tmp_path / "broken"
    shutil.copytree(doubler_folder, broken)
    (broken / "model-config.yaml").write_text(config)
    with pytest.raises(VestalError, match=message):
        LoadedArchive(broken)
