"""What the base promises whatever a task does: faults of the model, of decode, of encode."""

from __future__ import annotations

import json
import textwrap

import pytest

from vestal.archive.run import MANIFEST, Input, LoadedArchive
from vestal.errors import VestalError

DOUBLER = """
    import math
    import torch
    from torch import Tensor
    from vestal_handlers.base import BatchHandler
    from vestal_handlers.errors import InputError


    class Handler(BatchHandler):
        sizes = []

        def blank(self):
            return torch.zeros(())

        def decode(self, instance):
            if instance.payload == "broken decode":
                raise KeyError("secret")
            return torch.tensor(float(instance.payload))

        def forward(self, samples):
            self.sizes.append(len(samples))
            if any(sample == 13 for sample in samples):
                raise RuntimeError("thirteen\\r\\nX-Evil: 1")
            if len(samples) > 2 and any(sample == 99 for sample in samples):
                raise torch.OutOfMemoryError("too many at once")
            if any(sample == 100 for sample in samples):
                raise MemoryError
            if any(sample == 3.5 for sample in samples):
                return [None] * (len(samples) + 1)
            return super().forward(samples)

        def encode(self, output, instance):
            if output == 14:
                raise ValueError("seven cannot be encoded")
            if output == 16:
                return math.nan
            return {"doubled": output.item()}
"""


@pytest.fixture(scope="session")
def doubler_folder(tmp_path_factory):
    """An unpacked archive whose model doubles: exact in floating point, so equal means equal."""
    import warnings

    import torch

    class Doubler(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # 5 becomes infinity.
            return torch.where(x == 5, torch.inf, x * 2)

    folder = tmp_path_factory.mktemp("doubler")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit")
        torch.jit.script(Doubler()).save(str(folder / "model.pt"))
    (folder / "handler.py").write_text(textwrap.dedent(DOUBLER))
    (folder / "MAR-INF").mkdir()
    model = {
        "modelName": "doubler",
        "modelVersion": "1.0",
        "handler": "handler.py",
        "serializedFile": "model.pt",
        "configFile": "model-config.yaml",
    }
    (folder / MANIFEST).write_text(json.dumps({"model": model}))
    (folder / "model-config.yaml").write_text("batchSize: 8\n")
    return folder


@pytest.fixture
def doubler(doubler_folder):
    with LoadedArchive(doubler_folder) as loaded:
        yield loaded


def send(loaded, *values):
    batch = [Input.raw(json.dumps(value).encode(), "application/json") for value in values]
    return loaded.predict(batch)


def test_a_fault_of_the_model_is_found_by_halving(doubler):
    answers = send(doubler, 1, 2, 13, 4, 6, 9, 10, 11)
    assert [answer.status for answer in answers] == [200, 200, 500, 200, 200, 200, 200, 200]
    assert [a.json()["doubled"] for a in answers if a.status == 200] == [2, 4, 8, 12, 18, 20, 22]
    assert answers[2].json()["type"] == "HandlerError"
    # the exception's own text stays in the log
    assert "thirteen" not in answers[2].body.decode()


def test_two_culprits_are_both_found(doubler):
    statuses = [answer.status for answer in send(doubler, 13, 1, 2, 13)]
    assert statuses == [500, 200, 200, 500]


def test_out_of_memory_halves_and_goes_on(doubler):
    answers = send(doubler, 1, 2, 99, 4, 6, 8.5)
    assert [answer.status for answer in answers] == [200] * 6
    assert answers[2].json() == {"doubled": 198}


def test_a_request_too_large_even_alone_gets_507(doubler):
    answers = send(doubler, 1, 100, 2)
    assert [answer.status for answer in answers] == [200, 507, 200]
    assert answers[1].json()["type"] == "OutOfMemory"


def test_an_unexpected_fault_in_decode_stays_with_its_request(doubler):
    answers = send(doubler, 1, "broken decode", 2)
    assert [answer.status for answer in answers] == [200, 500, 200]
    assert "secret" not in answers[1].body.decode()
    assert "failed at decode (KeyError)" in answers[1].json()["message"]


def test_a_fault_in_encode_stays_with_its_request(doubler):
    assert [answer.status for answer in send(doubler, 1, 7, 2)] == [200, 500, 200]


def test_no_nan_reaches_the_json(doubler):
    answers = send(doubler, 1, 8, 2)
    assert [answer.status for answer in answers] == [200, 500, 200]


def test_a_non_finite_output_is_named(doubler):
    answers = send(doubler, 1, 5, 2)
    assert [answer.status for answer in answers] == [200, 500, 200]
    assert "not finite" in answers[1].json()["message"]


def test_a_model_that_gives_the_wrong_count_fails_alone(doubler):
    assert [answer.status for answer in send(doubler, 1, 3.5, 2)] == [200, 500, 200]


def test_the_search_for_culprits_ends_in_time(doubler, monkeypatch):
    handler = doubler._service._entry_point.__self__
    monkeypatch.setitem(handler.config, "responseTimeout", 1e-9)
    statuses = [answer.status for answer in send(doubler, 1, 13, 2, 4)]
    assert statuses == [500] * 4


def test_the_log_names_the_request(doubler, caplog):
    send(doubler, 1, 13)
    assert "request local-1 failed at forward" in caplog.text
    assert "thirteen" in caplog.text


def test_loading_runs_the_batch_sizes_that_will_come(doubler):
    handler = doubler._service._entry_point.__self__
    assert set(handler.sizes) >= set(range(1, 9))


def test_a_failed_warm_up_is_a_failed_load(doubler_folder, tmp_path):
    import shutil

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
def test_a_wrong_option_is_a_failed_load(doubler_folder, tmp_path, config, message):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(doubler_folder, broken)
    (broken / "model-config.yaml").write_text(config)
    with pytest.raises(VestalError, match=message):
        LoadedArchive(broken)
