"""Counts, dimensions and sizes are checked before anything is allocated from them."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import struct
import time
from dataclasses import replace

import hostile
import numpy as np
import pytest
import torch
from doubling import write_doubler
from folders import as_json, ask, handler_of, write_archive
from imaging import encoded, seven
from PIL import Image
from torch import nn
from torchvision.transforms import v2
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from vestal.inprocess import Input, LoadedArchive
from vestal_handlers.errors import InputError, is_out_of_memory
from vestal_handlers.images import limits
from vestal_handlers.images.decoding import read_image
from vestal_handlers.images.limits import TransformLimit
from vestal_handlers.metrics import HandlerMetrics

JSON = "application/json"
GZIP = {"content-encoding": "gzip"}
RESNET = (v2.Resize(256, antialias=True), v2.CenterCrop(224))
TRANSFORMS = """
import torch
from torchvision.transforms import v2
from vestal_handlers.images.decoding import ImageTransform

transform = ImageTransform("L", (v2.Resize(64, antialias=True), v2.ToDtype(torch.float32)))
"""
WIDE = hostile.png(8000, 1)


class Darkness(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.flatten(1).mean(1), -x.flatten(1).mean(1)], 1)


@pytest.fixture(scope="module")
def doubler(tmp_path_factory):
    with LoadedArchive(write_doubler(tmp_path_factory.mktemp("doubler"))) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = write_archive(
        tmp_path_factory.mktemp("images"),
        "image_classifier",
        Darkness(),
        options={"max_pixels": 1_000_000, "max_request_pixels": 2_000_000, "threads": 2},
        labels=["bright", "dark"],
        transforms=TRANSFORMS,
    )
    with LoadedArchive(folder) as loaded:
        yield loaded


def refused(loaded, hostile_input, good=b"1"):
    """The answer to a hostile request, whose neighbours are answered and which uses no memory."""
    neighbour = Input.raw(good, "" if good[:1] == b"\x89" else JSON)
    hostile.reset_peak()
    before = hostile.peak()
    first, answer, last = loaded.predict([neighbour, hostile_input, neighbour])
    assert (first.status, last.status) == (200, 200)
    assert hostile.peak() - before < 150_000_000
    return answer


# --- Tensors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (hostile.tensor([2**31, 0]), 413, "2147483648 instances in one request"),
        (hostile.tensor([10**7, 0]), 413, "10000000 instances in one request"),
        (hostile.tensor([257], (1,) * 257), 413, "257 instances in one request"),
        (hostile.tensor([2, 10**9, 0]), 422, "has no values"),
        (hostile.tensor([0, 2**31, 2**31, 2**31]), 400, "no body"),
        (hostile.tensor([1] * 33, (1,)), 422, "33 dimensions in its shape, at most 32"),
        (hostile.tensor([1] * 65, (1,)), 422, "65 dimensions in its shape, at most 32"),
        (hostile.tensor([True], (1,)), 422, "shape must be a list of sizes"),
        (hostile.tensor([1.0], (1,)), 422, "shape must be a list of sizes"),
        (hostile.tensor([-1, 0], ()), 422, "shape must be a list of sizes"),
        (hostile.tensor([10**400], ()), 422, "shape must be a list of sizes"),
        (hostile.tensor([1, *[2**31] * 31], (1,)), 422, "values, got 1"),
        (hostile.tensor([1], (1,), id="i" * 2_000_000), 422, '"id" must be a string of at most'),
        (hostile.tensor([1], (1,), id=[[]] * 9), 422, '"id" must be a string of at most'),
    ],
)
def test_a_tensor_is_measured_by_its_shape(doubler, body, status, message):
    answer = refused(doubler, Input.raw(body, JSON))
    assert answer.status == status, answer.body[:500]
    assert message in answer.json()["message"]


def test_several_tensors_are_counted_by_the_longest(doubler):
    one = json.loads(hostile.tensor([1], (1,)))["inputs"][0]
    answer = refused(doubler, as_json({"inputs": [one, {**one, "name": "y", "shape": [10**7, 0]}]}))
    assert answer.status == 413


def test_no_error_repeats_a_long_name(doubler):
    for name in ("n" * 3_000_000, [0] * 1_000_000):
        tensor = {"name": name, "shape": [1], "datatype": "FLOAT", "data": [1]}
        answer = refused(doubler, as_json({"inputs": [tensor]}))
        assert answer.status == 422
        assert len(answer.body) < 2_000


# --- JSON, gzip and forms -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (hostile.zipped_instances(6_600_000), "at most 10,000,000 (handler.max_json_bytes)"),
        (hostile.zipped_instances(3_000_000), "more than 2,000,000 values"),
        (hostile.zipped_instances(500_000), "500000 instances in one request, at most 256"),
        (gzip.compress(b"[" + b"[]," * 500_000 + b"[]]"), "500001 instances"),
        (gzip.compress(b'{"data":[' + b"{}," * 300_000 + b"{}]}"), "300001 instances"),
        (gzip.compress(b'{"x":[' + b"{}," * 3_000_000 + b"{}]}"), "more than 2,000,000 values"),
        (gzip.compress(b'"' + b"a" * 11_000_000 + b'"'), "handler.max_json_bytes"),
        (gzip.compress(b"[" * 3_000_000), "more than 2,000,000 values"),
    ],
)
def test_json_is_counted_before_it_is_built(doubler, body, message):
    answer = refused(doubler, Input.raw(body, JSON, **GZIP))
    assert answer.status == 413, answer.body[:500]
    assert message in answer.json()["message"]


def test_a_server_that_parses_json_itself_gives_the_same_verdicts(tmp_path_factory):
    folder = write_doubler(tmp_path_factory.mktemp("parsed"))
    with LoadedArchive(folder, decode=True) as parsed:
        many = Input.raw(b'{"instances":[' + b"[]," * 300 + b"[]]}", JSON)
        assert ask(parsed, many).status == 413
        values = Input.raw(b'{"x":[' + b"1," * 2_000_000 + b"1]}", JSON)
        assert "2,000,000 values" in ask(parsed, values).json()["message"]


def test_the_parts_of_a_request_are_unzipped_up_to_the_limit_together(doubler):
    part = gzip.compress(b"1" + bytes(9_000_000), mtime=0)
    form = Input.form(**{f"f{number}": (part, "x/y") for number in range(200)})
    answer = refused(doubler, Input(form.parts, {**form.headers, **GZIP}))
    assert answer.status == 413
    assert "more than 20,000,000 bytes in one request" in answer.json()["message"]


def test_files_of_a_form_are_counted_before_they_are_read(doubler):
    form = Input.form(**{f"f{number}": (b"1", "x/y") for number in range(257)})
    assert "257 instances" in refused(doubler, form).json()["message"]


def test_large_numbers_and_repeated_names_cost_nothing(doubler):
    for body in (b"1" * 100_000, b"[" + b"1" * 4000 + b"]", b"1e999999999", b"-" + b"9" * 400):
        assert refused(doubler, Input.raw(body, JSON)).status in (400, 422, 500)
    repeated = b"{" + b'"x":1.5,' * 100_000 + b'"x":2}'
    assert refused(doubler, Input.raw(repeated, JSON)).json() == {"doubled": 4.0}


def test_what_a_refused_request_held_is_free_before_the_batch_ends(doubler):
    """Eight bodies of 100 MB in memory each: one at a time."""
    body = b'{"y":[' + b'{"a":1},' * 600_000 + b"1]}"
    hostile.reset_peak()
    before = hostile.peak()
    answers = doubler.predict([Input.raw(body, JSON)] * 8 + [as_json(1)])
    assert [answer.status for answer in answers] == [422] * 8 + [200]
    assert hostile.peak() - before < 500_000_000


# --- Images -------------------------------------------------------------------------------------


def test_a_narrow_image_is_refused_where_the_transform_enlarges_it(images):
    answer = refused(images, Input.raw(WIDE), encoded(seven()))
    assert answer.status == 413
    assert "transform enlarges to 32,768,000 pixels: at most 100,000" in answer.json()["message"]
    forty = as_json({"instances": [base64.b64encode(WIDE).decode()] * 40})
    assert refused(images, forty, encoded(seven())).status == 413


def test_a_narrow_array_is_refused_too(images):
    assert refused(images, as_json([[0] * 8000]), encoded(seven())).status == 413


def test_pixels_of_one_request_are_counted_in_order(images):
    large, small = hostile.png(900, 900), hostile.png(100, 100)
    sent = [large, large, large, small, large]
    form = Input.form(**{f"f{number}": (data, "image/png") for number, data in enumerate(sent)})
    answer = ask(images, form)
    codes = [one.get("code", 200) for one in answer.json()["predictions"]]
    assert (answer.status, codes) == (200, [200, 200, 413, 413, 413])
    assert "2,000,000 pixels in one request" in answer.json()["predictions"][2]["message"]


def test_pixels_after_the_transform_count_for_the_request(images):
    """1000 x 50 pixels become 1280 x 64."""
    narrow = base64.b64encode(hostile.png(1000, 50)).decode()
    answer = ask(images, as_json({"instances": [narrow] * 60}))
    codes = [one.get("code", 200) for one in answer.json()["predictions"]]
    assert codes == [200] * 24 + [413] * 36


def test_a_side_has_a_limit_of_its_own():
    with pytest.raises(InputError, match="70000 x 1: more than 65,535 pixels on one side"):
        read_image(hostile.png(70_000, 1), "L")
    with pytest.raises(InputError, match="1 x 70000: more than 65,535 pixels on one side"):
        read_image(hostile.png(1, 70_000), "L")


@pytest.mark.parametrize(
    ("steps", "shape", "pixels"),
    [
        (RESNET, (3, 1, 8000), 2_048_000 * 256),
        (RESNET, (3, 500, 375), 341 * 256),
        (RESNET, (3, 8000, 1), 2_048_000 * 256),
        ((v2.Resize((28, 28)),), (1, 1, 8000), 28 * 28),
        ((v2.Resize(255, max_size=700),), (3, 100, 1000), 700 * 70),
        ((v2.Resize(None, max_size=100),), (3, 400, 200), 100 * 50),
        ((v2.RandomResizedCrop(224),), (3, 1, 8000), 224 * 224),
        ((v2.Compose(RESNET),), (3, 500, 375), 224 * 224),
        ((v2.ToDtype(torch.float32, scale=True), v2.Resize(256)), (1, 2, 64), 8192 * 256),
        ((v2.Pad(50), v2.Grayscale(3)), (3, 28, 28), 128 * 128),
        ((), (1, 28, 28), 0),
    ],
)
def test_the_size_after_a_transform_is_calculated(steps, shape, pixels):
    limit = TransformLimit(steps, 10**9)
    assert limit._calculate(shape) == (pixels, True)


def test_an_enlarged_image_may_have_a_tenth_of_max_pixels():
    limit = TransformLimit(RESNET, 50_000_000)
    limit.check((3, 1, 76))  # 19,456 x 256 are 4,980,736
    with pytest.raises(InputError, match="enlarges to 5,046,272 pixels: at most 5,000,000"):
        limit.check((3, 1, 77))
    limit.check((3, 7000, 7000))  # becomes smaller


def test_a_step_that_cannot_be_calculated_refuses_narrow_images():
    limit = TransformLimit([lambda image: torch.from_numpy(image.numpy().copy())], 50_000_000)
    limit.check((3, 10, 319))
    with pytest.raises(InputError, match=r"32 times the\s+other"):
        limit.check((3, 10, 320))


def test_scans_of_a_progressive_jpeg_are_counted(monkeypatch):
    assert read_image(hostile.progressive(200, 3), "L").shape == (1, 200, 200)
    with pytest.raises(InputError, match="200 x 200: more than 25 scans"):
        read_image(hostile.progressive(200, 80), "L", max_pixels=50_000)
    # Tables between the scans do not hide them.
    image = hostile.progressive(200, 80)
    hidden = image.replace(b"\xff\xda", b"\xff\xfe\0\4\xff\xd9\xff\xda")
    with pytest.raises(InputError, match="more than 25 scans"):
        read_image(hidden, "L", max_pixels=50_000)


def test_a_tile_larger_than_its_image_counts():
    assert read_image(hostile.tiled(64), "L").shape == (1, 16, 16)
    with pytest.raises(InputError, match="16 x 16: tiles of 1024 x 1024, more than 1,000,000"):
        read_image(hostile.tiled(1024), "L", max_pixels=1_000_000)
    width = struct.pack("<HHII", 322, 4, 1, 64)
    corrupt = hostile.tiled(64).replace(width, struct.pack("<HHII", 322, 2, 3, 64))
    with pytest.raises(InputError, match="its tile size cannot be read"):
        read_image(corrupt, "L")


@pytest.mark.parametrize("kind", hostile.PIECES)
def test_a_file_in_too_many_pieces_is_refused(kind, monkeypatch):
    monkeypatch.setattr(limits, "READS", 5_000)
    with pytest.raises(InputError) as refusal:
        read_image(hostile.PIECES[kind](20_000), "L")
    assert refusal.value.status in (400, 415)


# --- Responses ----------------------------------------------------------------------------------


def test_explanations_of_one_request_are_counted(doubler):
    assert ask(doubler, as_json({"instances": [1] * 16}, explain="True")).status == 200
    answer = refused(doubler, as_json({"instances": [1] * 17}, explain="True"))
    assert answer.status == 413
    assert "17 explanations, at most 16" in answer.json()["message"]


def test_the_largest_response_is_refused_where_a_batch_has_too_many_bytes(doubler, monkeypatch):
    handler = handler_of(doubler)
    monkeypatch.setattr(handler, "options", replace(handler.options, max_response_bytes=3000))
    batch = [as_json({"instances": [1] * count}) for count in (1, 200, 50, 60)]
    answers = doubler.predict(batch)
    assert [answer.status for answer in answers] == [200, 413, 200, 200]
    assert "handler.max_response_bytes" in answers[1].json()["message"]
    assert sum(len(answer.body) for answer in answers) < 3000


# --- Time, memory and metrics -------------------------------------------------------------------


def test_a_batch_whose_time_is_over_decodes_no_more(doubler, monkeypatch):
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
    # The neighbour of one instance goes first; each thread ends the instance that it has begun.
    assert answers[1].status == 200
    assert codes[handler.threads :] == [500] * (10 - handler.threads)
    assert (
        "the time limit of this batch has passed" in answers[0].json()["predictions"][-1]["message"]
    )


def test_a_batch_whose_time_is_over_computes_no_more(doubler, monkeypatch):
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


def test_every_library_s_failed_allocation_is_recognized():
    for attempt in (allocate, lambda: np.empty(2**50), lambda: [0] * 2**50):
        with pytest.raises((RuntimeError, MemoryError)) as failed:
            attempt()
        assert is_out_of_memory(failed.value)
    assert not is_out_of_memory(ValueError("no memory of it"))


def test_a_decoder_without_memory_is_no_corrupt_image(monkeypatch):
    def fail(*_, **__):
        return torch.empty(2**50)

    monkeypatch.setattr("vestal_handlers.images.decoding.decode_image", fail)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        read_image(encoded(seven(), "JPEG"), "L")


METRICS = """
dimensions: []
ts_metrics: {}
model_metrics:
  histogram:
    - {name: vestal_batch_size, unit: count, dimensions: [model_name]}
    - {name: vestal_decode_seconds, unit: s, dimensions: [model_name, model_version]}
    - {name: vestal_encode_seconds, unit: s, dimensions: null}
  counter:
    - {name: vestal_failures_total, unit: count, dimensions: [a, b, c, d]}
"""


# TorchServe leaves the file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_metrics_that_cannot_be_observed_are_logged_once(tmp_path, caplog):
    config = tmp_path / "metrics.yaml"
    config.write_text(METRICS)
    cache = MetricsCacheYamlImpl(config_file_path=str(config))
    cache.initialize_cache()
    metrics = HandlerMetrics(cache, "m", "1.0")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            metrics.observe("batch_size", 3)
            metrics.observe("decode_seconds", float("nan"))
            metrics.observe("forward_seconds", 1.0)
            metrics.observe("encode_seconds", 1.0)
            metrics.count_failure("InputError")
    ours = [r for r in caplog.records if r.name == "vestal_handlers.metrics"]
    errors = [record.getMessage() for record in ours if record.levelno == logging.ERROR]
    assert [error.split()[1] for error in errors] == [
        "vestal_batch_size",
        "vestal_decode_seconds",
        "vestal_encode_seconds",
        "vestal_failures_total",
    ]


def test_describe_lists_the_limits(images):
    limits = images.describe()["limits"]
    assert limits["max_json_bytes"] == 10_000_000
    assert limits["max_values"] == 2_000_000
    assert limits["max_request_pixels"] == 2_000_000


def test_an_image_that_a_transform_makes_smaller_is_answered(images):
    photo = encoded(Image.new("L", (900, 1000)), "JPEG")
    assert ask(images, Input.raw(photo)).status == 200
