"""The image classifier in an archive of `vestal pack`, run in this process."""

from __future__ import annotations

import base64
import json
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imaging import bomb, encoded, seven
from jsonschema import Draft202012Validator
from PIL import Image

from vestal.inprocess import Input, LoadedArchive
from vestal.mar.sample import find_difference, read_sample
from vestal.recipes.recipe import load_recipe, load_transform
from vestal_handlers.requests.request import InferenceRequest, Instance


@pytest.fixture(scope="module")
def archive(trained_project):
    with LoadedArchive(trained_project.model_store / "mnist-1.0.mar") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def images(trained_project):
    """Held-out test images as PNG files, in memory."""
    from torchvision.io import encode_png

    test = load_recipe(trained_project, "mnist").splits("digits").test
    return [bytes(encode_png(test[index][0]).numpy()) for index in range(32)]


@pytest.fixture(scope="module")
def alone(archive, images):
    """The predictions for each image alone in its batch."""
    return [archive.predict([image])[0].json() for image in images]


def as_json(value, **headers):
    return Input.raw(json.dumps(value).encode(), "application/json", **headers)


BAD = {
    b"": 400,
    b"no image": 415,
    encoded(seven())[:90]: 400,
    bomb(): 413,
}


def test_a_bad_request_does_not_affect_its_neighbours(archive, images, alone):
    good, bad, last = archive.predict([images[0], b"", images[1]])
    assert (good.status, bad.status, last.status) == (200, 400, 200)
    assert find_difference(alone[0], good.json(), 1e-5) is None
    assert find_difference(alone[1], last.json(), 1e-5) is None
    assert bad.json() == {
        "code": 400,
        "type": "InputError",
        "message": "the image is empty (0 bytes)",
        "request_id": "local-1",
    }


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.one_of(st.integers(0, 31), st.sampled_from(sorted(BAD))), min_size=1, max_size=64)
)
def test_every_request_gets_its_own_response_in_any_mix(archive, images, alone, mix):
    answers = archive.predict([images[one] if isinstance(one, int) else one for one in mix])
    assert len(answers) == len(mix)
    for one, answer in zip(mix, answers, strict=True):
        if isinstance(one, int):
            assert answer.status == 200
            assert answer.json()["label"] == alone[one]["label"]
            assert find_difference(alone[one], answer.json(), 1e-5) is None
        else:
            assert answer.status == BAD[one]


def test_predictions_equal_those_of_a_plain_script(trained_project, archive, images):
    """The script loads the model and calls eval, no_grad, softmax and argmax."""
    import warnings

    from torchvision.io import decode_image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit")
        model = torch.jit.load(str(archive.folder / "model.pt"))
    model.eval()
    for image in images:
        pixels = decode_image(torch.frombuffer(bytearray(image), dtype=torch.uint8))
        tensor = ((pixels.float() / 255 - 0.1307) / 0.3081).unsqueeze(0)
        with torch.no_grad():
            probabilities = torch.softmax(model(tensor), dim=1)[0]
        answer = archive.predict([image])[0].json()
        assert answer["label"] == str(int(probabilities.argmax()))
        assert abs(answer["probability"] - float(probabilities.max())) < 1e-5


def test_serving_and_training_prepare_the_same_tensor(trained_project, archive, images):
    recipe = load_recipe(trained_project, "mnist")
    handler = archive._service._entry_point.__self__
    test = recipe.splits("digits").test
    transform = load_transform(trained_project, "mnist", "transforms")
    for index, image in enumerate(images):
        served = handler.decode(Instance(InferenceRequest(0, "", {}), image))
        assert torch.equal(served, transform(test[index][0]))
        assert torch.equal(served, handler.transform(handler.transform.decode(image)))


def test_the_packed_sample_gets_its_packed_prediction(trained_project, archive):
    sample = read_sample(trained_project.model_store / "mnist-1.0.mar")
    (answer,) = archive.predict([sample.input])
    assert find_difference(sample.answer, answer.json(), sample.tolerance) is None


def test_every_way_to_send_an_image_gives_the_same_prediction(archive, images, alone):
    text = base64.b64encode(images[0]).decode()
    ways = [
        Input.raw(images[0], "image/png"),
        Input({"data": (images[0], "")}),
        Input.form(any_name=(images[0], "image/png")),
        Input.form({"data": text}),
        as_json({"data": text}),
        as_json({"data": {"b64": text}}),
        as_json({"b64": text}),
        as_json(text),
        as_json(f"data:image/png;base64,{text}"),
        Input.raw(text.encode(), "text/plain"),
    ]
    for way, answer in zip(ways, archive.predict(ways), strict=True):
        assert answer.status == 200, way
        assert find_difference(alone[0], answer.json(), 1e-5) is None


def test_a_body_parsed_by_the_server_gives_the_same_prediction(archive, images, alone, monkeypatch):
    """TorchServe without configuration passes parsed JSON and text: str and dict."""
    text = base64.b64encode(images[0]).decode()
    handler = archive._service._entry_point.__self__
    for value in ({"data": text}, text, {"instances": [text]}):
        archive._service.predict([])  # fresh context
        context = archive._service.context
        from ts.context import RequestProcessor

        context.request_ids = {0: "one"}
        context.request_processor = [RequestProcessor({})]
        answer = json.loads(handler.handle([{"body": value}], context)[0])
        answer = answer.get("predictions", [answer])[0]
        assert find_difference(alone[0], answer, 1e-5) is None


def test_each_of_several_instances_gets_its_own_result(archive, images, alone):
    text = [base64.b64encode(image).decode() for image in images[:2]]
    (answer,) = archive.predict([as_json({"instances": [text[0], "???", text[1]]})])
    assert answer.status == 200
    assert answer.headers["x-failed-instances"] == "1"
    first, bad, last = answer.json()["predictions"]
    assert find_difference(alone[0], first, 1e-5) is None
    assert find_difference(alone[1], last, 1e-5) is None
    assert (bad["code"], bad["type"]) == (400, "InputError")


def pixels_of(image: bytes) -> list[list[int]]:
    return np.asarray(Image.open(BytesIO(image))).tolist()


def test_an_array_of_numbers_is_read_as_an_image(archive, images):
    pixels = pixels_of(images[0])
    colour = np.asarray(Image.open(BytesIO(images[0])).convert("RGBA"))
    ways = [
        as_json({"data": pixels}),
        as_json(pixels),
        as_json({"data": pixels, "target": "3"}),
        as_json({"data": np.asarray(pixels, dtype=float).tolist()}),
        as_json({"data": [[[value] for value in row] for row in pixels]}),
        as_json({"data": colour[..., :3].tolist()}),
        as_json({"data": colour.tolist()}),
        Input.form(f=(json.dumps(pixels).encode(), "application/json")),
    ]
    expected = archive.predict([images[0]] * len(ways))[0]
    for way, answer in zip(ways, archive.predict(ways), strict=True):
        assert (answer.status, answer.json()) == (200, expected.json()), way


def test_several_arrays_are_sent_as_instances_or_as_a_tensor(archive, images, alone):
    arrays = [pixels_of(image) for image in images[:3]]
    labels = [one["label"] for one in alone[:3]]
    tensor = {"name": "x", "shape": [3, 28, 28], "datatype": "UINT8", "data": arrays}
    several, rows = archive.predict([as_json({"instances": arrays}), as_json({"inputs": [tensor]})])
    assert [one["label"] for one in several.json()["predictions"]] == labels
    (label,) = [out for out in rows.json()["outputs"] if out["name"] == "label"]
    assert label["data"] == labels


def test_an_array_of_another_shape_fails_alone(archive, images):
    first, bad, last = archive.predict([images[0], as_json({"data": [[0, 256]]}), images[1]])
    assert (first.status, bad.status, last.status) == (200, 422, 200)
    assert bad.json()["message"] == "item [0][1] of the image must be at most 255, got 256"
    (answer,) = archive.predict([as_json({"data": [[0]], "targt": "3"})])
    assert (answer.status, "did you mean 'target'?" in answer.json()["message"]) == (422, True)


def test_a_request_whose_instances_all_fail_has_the_status_of_the_first(archive):
    (answer,) = archive.predict([as_json({"instances": [1, "???"]})])
    assert (answer.status, answer.json()["code"]) == (415, 415)


def test_several_files_of_one_form_are_several_instances(archive, images, alone):
    (answer,) = archive.predict(
        [Input.form(a=(images[0], "image/png"), b=(images[1], "image/png"))]
    )
    assert [p["label"] for p in answer.json()["predictions"]] == [one["label"] for one in alone[:2]]


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (Input.raw(b"{nope", "application/json"), 400, "the body is not JSON"),
        (Input.raw(b"[" * 100_000, "application/json"), 413, "deeper than 32"),
        (as_json({"instances": []}), 422, "at least one instance"),
        (as_json({"instances": ["x"] * 257}), 413, "257 instances in one request, at most 256"),
        (Input({}), 400, "no body"),
        (Input.raw(bytes(20_000_001)), 413, "more than 20,000,000 bytes"),
    ],
)
def test_an_unreadable_request_is_refused(archive, sent, status, message):
    (answer,) = archive.predict([sent])
    assert answer.status == status
    assert message in answer.json()["message"]


def test_headers_name_the_model_and_repeat_the_trace(archive, images):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"TraceParent": trace, "x-correlation-id": "a\r\nset-cookie: b\x00é"}
    good, bad = archive.predict(
        [Input.raw(images[0], **headers), Input.raw(b"", traceparent=trace)]
    )
    for answer in (good, bad):
        assert answer.headers["x-model-name"] == "mnist"
        assert answer.headers["x-model-version"] == "1.0"
        assert answer.headers["traceparent"] == trace
        assert answer.headers["content-type"] == "application/json"
    assert good.headers["x-correlation-id"] == "aset-cookie: b"


def test_describe_returns_name_and_engine(archive, images):
    described, predicted = archive.predict([Input({}, headers={"describe": "True"}), images[0]])
    assert predicted.status == 200
    assert described.json()["labels"] == list("0123456789")
    assert described.json()["engine"]["name"] == "torchscript"


def test_explanations_and_predictions_share_a_batch(archive, images, alone):
    explained, refused, answered = archive.predict(
        [Input.raw(images[0], explain="True"), Input.raw(b"", explain="True"), images[0]]
    )
    assert (explained.status, refused.status, answered.status) == (200, 400, 200)
    assert explained.json()["label"] == alone[0]["label"]
    assert find_difference(alone[0], answered.json(), 1e-5) is None


def test_describe_returns_schemas_limits_and_an_example(archive, trained_project):
    (answer,) = archive.predict([Input({}, headers={"describe": "True"})])
    description = answer.json()
    assert description["handler"] == "ImageClassifier"
    assert description["limits"]["max_pixels"] == 50_000_000
    assert description["limits"]["max_frames"] == 1000
    assert len(description["artifact_sha256"]) == 64
    assert description["input"]
    assert description["output"]
    takes, gives = (Draft202012Validator(description[name]) for name in ("input", "output"))
    for schema in (takes, gives):
        schema.check_schema(schema.schema)
    for value in (
        description["example"],
        {"data": description["example"]},
        [[0, 255], [7, 9]],
        [[[1, 2, 3]]],
    ):
        takes.validate(value)
        (again,) = archive.predict([as_json(value)])
        assert again.status == 200
        gives.validate(again.json())
