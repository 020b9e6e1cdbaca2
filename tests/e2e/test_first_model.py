"""A TorchServe with a model that the tests have trained and packed."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from imaging import bomb, encoded, seven
from PIL import Image
from serving import until

from vestal.client import Client, ClientError, NotFound, RequestRefused, TokenError, TooLarge
from vestal.demo import TestImage, save_test_images, show_isolation, swap
from vestal.fleet.server import Server
from vestal.inprocess import LoadedArchive
from vestal.mar.sample import find_difference
from vestal.runs import Run


@pytest.fixture(scope="module")
def images(trained_project) -> list[TestImage]:
    return save_test_images(trained_project)


@pytest.fixture(scope="module")
def server(trained_project):
    with Server(trained_project, ["mnist-1.0.mar"], port=0) as running:
        yield running


@pytest.fixture(scope="module")
def loaded(trained_project):
    """The same archive in a process without a server."""
    with LoadedArchive(trained_project.model_store / "mnist-1.0.mar") as archive:
        yield archive


@pytest.fixture(scope="module")
def client(server):
    ready = server.ready
    with Client(
        ready.inference,
        management=ready.management,
        metrics=ready.metrics,
        key_file=ready.key_file,
    ) as calling:
        yield calling


@pytest.fixture
def vestal(cli, server, trained_project, monkeypatch):
    """Run `vestal ...` in the server's project; return exit code, stdout and stderr."""
    monkeypatch.chdir(trained_project.root)
    return cli


def test_accuracy_over_http_equals_accuracy_in_process(client, images, trained_project):
    answers = client.predict_many("mnist", [image.file for image in images])
    right = sum(a["label"] == i.label for a, i in zip(answers, images, strict=True))
    run = Run.read(trained_project.runs / "mnist" / "1")
    assert right == round(run.test["accuracy"] * len(images))


def test_predictions_over_http_equal_the_handler_in_process(client, images, loaded):
    files = [image.file for image in images[:32]]
    local = [answer.json() for answer in loaded.predict([f.read_bytes() for f in files])]
    for over_http, here in zip(client.predict_many("mnist", files), local, strict=True):
        assert find_difference(here, over_http.value, 1e-5) is None


def test_a_prediction_has_its_model_and_version(client, images):
    answer = client.predict("mnist", images[0].file)
    assert (answer.model, answer.version, answer.attempts) == ("mnist", "1.0", 1)
    assert answer.request_id
    assert 0 < answer.latency < 30


IMAGES = {
    "not square": encoded(seven((60, 28))),
    "palette": encoded(seven().convert("P", palette=Image.Palette.ADAPTIVE)),
    "CMYK": encoded(seven((64, 64)).convert("CMYK"), "JPEG"),
    "16 bits": encoded(Image.fromarray(np.asarray(seven()).astype(np.uint16) * 257)),
    "transparent": encoded(seven().convert("RGBA")),
    "two colors": encoded(seven().convert("1")),
    "GIF": encoded(seven(), "GIF"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_every_kind_of_image_is_predicted_as_in_process(kind, client, loaded):
    (here,) = loaded.predict([IMAGES[kind]])
    assert find_difference(here.json(), client.predict("mnist", IMAGES[kind]).value, 1e-5) is None


def test_a_photo_is_rotated_by_its_exif_orientation(client):
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers rotate it by 90 degrees clockwise
    rotated = seven().transpose(Image.Transpose.ROTATE_90)
    upright = client.predict("mnist", encoded(seven()))
    assert (
        find_difference(
            upright.value, client.predict("mnist", encoded(rotated, exif=exif)).value, 1e-5
        )
        is None
    )


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (encoded(seven())[:100], 400, "cannot be decoded"),
        (b"", 400, "empty"),
        (b"I am a letter", 415, "not an image"),
        (bomb(), 413, "13000 x 13000"),
    ],
)
def test_a_body_that_is_not_an_image_is_refused(client, body, status, message):
    with pytest.raises(RequestRefused) as refused:
        client.predict("mnist", body)
    assert refused.value.status == status
    assert message in str(refused.value)
    assert refused.value.request_id


def test_a_body_above_the_servers_limit_is_too_large(client):
    with pytest.raises((TooLarge, ClientError)):
        client.predict("mnist", bytes(20_000_001))
    assert client.ready("mnist")


def test_an_unknown_model_or_version_is_not_found(client, images):
    with pytest.raises(NotFound):
        client.predict("mnits", images[0].file)
    with pytest.raises(NotFound):
        client.predict("mnist", images[0].file, version="9.9")


def test_a_wrong_token_is_a_token_error(server, images):
    with Client(server.ready.inference, token="wrong") as caller, pytest.raises(TokenError):
        caller.predict("mnist", images[0].file)


def test_multipart_and_json_get_the_same_prediction(server, client, images):
    key = json.loads(Path(server.ready.key_file).read_text())["inference"]["key"]
    address = f"{server.ready.inference}/predictions/mnist"
    headers = {"Authorization": f"Bearer {key}", "x-correlation-id": "abc-1"}
    data = images[0].file.read_bytes()
    expected = client.predict("mnist", data).value
    answers = [
        requests.post(address, files={"any": data}, headers=headers, timeout=30),
        requests.post(
            address, json={"data": base64.b64encode(data).decode()}, headers=headers, timeout=30
        ),
        requests.put(address, data=data, headers=headers, timeout=30),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert find_difference(expected, answer.json(), 1e-5) is None
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-model-version"] == "1.0"
        assert answer.headers["x-correlation-id"] == "abc-1"


def test_a_corrupt_image_fails_alone_in_its_batch(client, images):
    show_isolation(client, images)  # raises if it does not


@pytest.mark.slow  # test_client_management_live replaces a version under load, too
def test_a_swap_under_load_loses_nothing(trained_project, images, tmp_path):
    """The swap of the demo, on a separate server."""
    with (
        Server(trained_project_copy(trained_project, tmp_path), ["mnist-1.0.mar"], port=0) as own,
        Client(
            own.ready.inference, management=own.ready.management, key_file=own.ready.key_file
        ) as calling,
    ):
        swap(calling, images)  # raises if a request failed, hung or is missing
        assert [(m.version, m.default) for m in calling.models()] == [("2.0", True)]


def trained_project_copy(project, root):
    """Return another project with the same store; a project can have only one server."""
    (root / "model_store").symlink_to(project.model_store)
    return type(project)(root)


def test_predict_needs_no_addresses(vestal, images, trained_project):
    sevens = [image.file for image in images if image.label == "7"][:9]
    code, out, err = vestal("predict", "mnist", *sevens, "--plot", "out/grid.png")
    assert code == 0, err
    assert "correct (" in out
    with Image.open(trained_project.root / "out" / "grid.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_predict_prints_json_with_errors(vestal, images, trained_project):
    broken = trained_project.root / "broken.png"
    broken.write_bytes(b"")
    code, out, _ = vestal("predict", "mnist", "samples/3/", broken, "--json")
    assert code == 1
    facts = json.loads(out)
    assert {fact["actual"] for fact in facts[:-1]} == {"3"}
    assert facts[0]["answer"]["label"] in "0123456789"
    assert facts[-1]["actual"] is None
    assert facts[-1]["error"]["status"] == 400


def test_an_unknown_model_is_reported_once(vestal, images, trained_project):
    code, _, err = vestal("predict", "mnits", "samples/3")
    assert code == 1
    assert err.count("model mnits is not served; did you mean mnist?") == 1


def test_a_timeout_is_reported(vestal, images, trained_project):
    image = images[0].file
    code, out, _ = vestal("predict", "mnist", image, "--timeout", "0.001")
    assert code == 1
    assert "0.001 s" in " ".join(out.split())


def test_a_short_load_test_counts_and_reports(vestal, images, trained_project):
    arguments = ("--users", 4, "--seconds", 2, "--out", "load", "--json")
    code, out, err = vestal("load", "mnist", "samples", *arguments)
    assert code == 0, err
    result = json.loads(out)
    assert result["requests"] > 0
    assert result["failures"] == {}
    assert 0 < result["p50"] <= result["p95"] <= result["p99"]
    assert "<html" in (trained_project.root / "load" / "report.html").read_text()
    assert (trained_project.root / "load" / "load_stats.csv").is_file()


def test_a_load_test_names_failures_by_type(vestal, images, trained_project):
    (trained_project.root / "broken.png").write_bytes(b"")
    arguments = ("--users", 2, "--seconds", 1, "--out", "failing", "--json")
    code, out, _ = vestal("load", "mnist", "broken.png", *arguments)
    assert code == 1
    ((reason, count),) = json.loads(out)["failures"].items()
    assert "400 InputError: the image is empty (0 bytes)" in reason
    assert count > 0


def test_metrics_count_batches_and_failures(client, images):
    before = metric(client, "vestal_failures_total")
    with pytest.raises(RequestRefused):
        client.predict("mnist", b"")
    until(lambda: metric(client, "vestal_failures_total") > before, 10, "the counted failure")
    assert metric(client, "vestal_batch_size_count") > 0
    assert metric(client, "vestal_forward_seconds_count") > 0


def metric(client, name):
    lines = client.metrics_text().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))


def test_many_concurrent_callers_get_predictions(client, images):
    with ThreadPoolExecutor(32) as pool:
        calls = [pool.submit(client.predict, "mnist", image.file) for image in images[:200]]
        labels = [call.result(60)["label"] for call in calls]
    assert len(labels) == 200
