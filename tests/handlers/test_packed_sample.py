"""A client that verifies a version reads the sample from the handler, part by part."""

from __future__ import annotations

import pytest
from folders import ask, write_archive
from torch import nn

from vestal.inprocess import Input, LoadedArchive
from vestal.mar.sample import Sample, parse_sample
from vestal_handlers import packed_sample
from vestal_handlers.base import BatchHandler


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_archive(tmp_path_factory.mktemp("sampled"), "regressor", nn.Linear(3, 1))
    (folder / "handler.py").write_text(
        "from vestal_handlers.base import BatchHandler\n\nclass Handler(BatchHandler):\n    pass\n"
    )
    config = folder / "model-config.yaml"
    config.write_text("handler: {warm_up: false}\n")
    return folder


def request_part(loaded, position):
    return ask(loaded, Input({}, {"describe": "True", packed_sample.HEADER: position}))


def test_the_parts_form_the_sample(folder, monkeypatch):
    sample = Sample(bytes(range(256)) * 10, "x/y", "input.bin", {"label": "ü"}, 0.5)
    monkeypatch.setattr(packed_sample, "PART_LENGTH", 1000)
    with LoadedArchive(folder) as loaded:
        assert request_part(loaded, "0").json() == {}
        sample.write(folder)
        text, length = "", 1
        while len(text) < length:
            part = request_part(loaded, str(len(text))).json()["sample"]
            assert 0 < len(part["text"]) <= 1000
            text, length = text + part["text"], part["length"]
    assert parse_sample(text) == sample


@pytest.mark.parametrize("position", ["-1", "x", "", "9" * 5000])
def test_a_position_that_is_not_a_number_is_rejected(folder, position):
    with LoadedArchive(folder) as loaded:
        assert request_part(loaded, position).status == 400


def test_the_description_does_not_contain_the_sample(folder, monkeypatch):
    monkeypatch.setattr(BatchHandler, "describe", lambda self: {"plain": True})
    with LoadedArchive(folder) as loaded:
        assert ask(loaded, Input({}, {"describe": "True"})).json() == {"plain": True}
