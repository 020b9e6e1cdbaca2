"""Explanations of images: attributions in JSON, and heat maps."""

from __future__ import annotations

import base64
import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from folders import as_json, ask, handler_of, write_archive
from imaging import encoded, seven
from PIL import Image
from plain_engines import WithoutGradients
from torch import nn

from vestal.inprocess import Input, LoadedArchive
from vestal_handlers.tasks.explaining import heat_map

CPU = torch.device("cpu")


LABELS = ["left", "right"]


TRANSFORMS = """
import torch
from torchvision.transforms import v2
from vestal_handlers.images.decoding import ImageTransform

transform = ImageTransform(
    mode="{mode}",
    steps=(
        v2.Resize({size}, antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.1], [0.3]),
    ),
)
"""


class Halves(nn.Module):
    """Logits: the brightness of the left half and of the right half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle = x.shape[3] // 2
        left, right = x[:, :, :, :middle].mean((1, 2, 3)), x[:, :, :, middle:].mean((1, 2, 3))
        return torch.stack([left, right], dim=1) * 5


def folder_of(tmp_path_factory, mode="L", size=(28, 28), **options):
    folder = tmp_path_factory.mktemp("halves")
    transforms = TRANSFORMS.format(mode=mode, size=size)
    return write_archive(
        folder, "image_classifier", Halves(), options=options, labels=LABELS, transforms=transforms
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    with LoadedArchive(folder_of(tmp_path_factory)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def lamp():
    """A black image with a white square in the right half."""
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[10:18, 18:24] = 255
    return encoded(Image.fromarray(pixels))


def explain(image, **fields):
    return as_json({"data": base64.b64encode(image).decode(), **fields}, explain="True")


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """An archive with two classes of the same label."""
    folder = tmp_path_factory.mktemp("twins")
    transforms = TRANSFORMS.format(mode="L", size=(28, 28))
    made = write_archive(
        folder, "image_classifier", Halves(), labels=["side", "side"], transforms=transforms
    )
    with LoadedArchive(made) as loaded:
        yield loaded


def test_the_index_tells_classes_of_one_label_apart(twins, lamp):
    answer = ask(twins, Input.raw(lamp, "image/png", explain="True")).json()
    assert (answer["label"], answer["index"]) == ("side", 1)
    assert [one["index"] for one in answer["top"]] == [1, 0]
    assert (answer["target"], answer["target_index"]) == ("side", 1)
    other = ask(twins, explain(lamp, target=0)).json()
    assert (other["index"], other["target_index"]) == (1, 0)
    assert other["target_probability"] == pytest.approx(answer["top"][1]["probability"], abs=1e-6)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("side", "'side' is the label of the classes 0, 1; send an index"),
        (2, "field 'target' must be at most 1, got 2"),
        (-1, "field 'target' must be at least 0, got -1"),
        ("sid", "did you mean 'side'?"),
        (True, "must be one of side, got true"),
    ],
)
def test_a_target_that_names_no_class_or_several_is_422(twins, lamp, target, message):
    answer = ask(twins, explain(lamp, target=target))
    assert answer.status == 422
    assert message in answer.json()["message"]


def test_attributions_of_an_image_add_up_and_lie_where_it_is_bright(archive, lamp):
    answer = ask(archive, Input.raw(lamp, "image/png", explain="True")).json()
    assert (answer["label"], answer["target"]) == ("right", "right")
    assert answer["method"] == "integrated_gradients"
    assert answer["shape"] == [1, 28, 28]
    cells = np.array(answer["attributions"])
    assert cells.shape == (28, 28)
    gained = answer["target_probability"] - answer["baseline_probability"]
    assert answer["target_probability"] == pytest.approx(answer["probability"], abs=1e-6)
    assert cells.sum() == pytest.approx(gained, abs=1e-3)
    assert gained > 0.1
    assert cells[10:18, 18:24].sum() == pytest.approx(cells.sum(), abs=1e-6)


@pytest.mark.parametrize("target", ["left", 0, 0.0])
def test_another_class_can_be_explained(archive, lamp, target):
    answer = ask(archive, explain(lamp, target=target)).json()
    assert (answer["label"], answer["index"]) == ("right", 1)
    assert (answer["target"], answer["target_index"]) == ("left", 0)
    assert answer["target_probability"] < 0.5 < answer["probability"]
    assert np.sum(answer["attributions"]) < 0


def test_predictions_and_explanations_share_a_batch(archive, lamp):
    batch = [lamp, Input.raw(lamp, explain="True"), Input.raw(b"", explain="True"), lamp]
    plain, explained, bad, last = archive.predict(batch)
    assert [a.status for a in (plain, explained, bad, last)] == [200, 200, 400, 200]
    assert plain.json() == last.json()
    assert "attributions" not in plain.json()
    assert explained.json()["probability"] == pytest.approx(plain.json()["probability"], abs=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda image: Input.raw(image, "image/png", explain="True", accept="image/png"),
        lambda image: explain(image, format="png"),
    ],
)
def test_a_heat_map_is_a_png_of_what_the_model_saw(archive, make):
    answer = ask(archive, make(encoded(seven((100, 60)))))
    assert answer.status == 200
    assert answer.headers["content-type"] == "image/png"
    picture = Image.open(BytesIO(answer.body))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (28, 28))


def test_a_heat_map_is_red_for_support_and_blue_for_opposition(archive, lamp):
    for target, strongest in (("right", 0), ("left", 2)):
        answer = ask(archive, explain(lamp, target=target, format="png"))
        pixels = np.asarray(Image.open(BytesIO(answer.body)))
        assert pixels[14, 20].argmax() == strongest
        assert len(set(pixels[14, 4].tolist())) == 1  # grey: it adds nothing


def test_a_requested_format_takes_precedence_over_the_accept_header(archive, lamp):
    data = base64.b64encode(lamp).decode()
    request = as_json({"data": data, "format": "json"}, explain="True", accept="image/png")
    assert "attributions" in ask(archive, request).json()


def test_a_heat_map_among_several_is_base64(archive, lamp):
    one = {"data": base64.b64encode(lamp).decode(), "format": "png"}
    answer = ask(archive, as_json({"instances": [one, {"data": 5}]}, explain="True"))
    picture, bad = answer.json()["predictions"]
    assert picture["content_type"] == "image/png"
    assert Image.open(BytesIO(base64.b64decode(picture["b64"]))).size == (28, 28)
    assert bad["code"] == 415


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "rigth"}, "(did you mean 'right'?)"),
        ({"format": "gif"}, "field 'format' must be one of json, png"),
        ({"taget": "right"}, "field 'taget' is unknown: did you mean 'target'?"),
    ],
)
def test_an_invalid_field_is_named(archive, lamp, fields, message):
    answer = ask(archive, explain(lamp, **fields))
    assert answer.status == 422
    assert message in answer.json()["message"]


def test_attributions_of_a_large_image_are_summed_into_cells(tmp_path_factory, lamp):
    with LoadedArchive(folder_of(tmp_path_factory, "RGB", (75, 50), n_steps=8)) as loaded:
        answer = ask(loaded, Input.raw(lamp, explain="True"))
        png = ask(loaded, Input.raw(lamp, explain="True", accept="image/png"))
    answer = answer.json()
    assert answer["shape"] == [3, 75, 50]
    cells = np.array(answer["attributions"])
    assert cells.shape == (32, 32)
    gained = answer["target_probability"] - answer["baseline_probability"]
    assert cells.sum() == pytest.approx(gained, abs=1e-3)
    assert Image.open(BytesIO(png.body)).size == (50, 75)


def test_an_engine_without_gradients_is_explained_by_occlusion(archive, lamp, monkeypatch):
    handler = handler_of(archive)
    engine = WithoutGradients(Halves())
    monkeypatch.setattr(handler, "engine", engine)
    answer = ask(archive, Input.raw(lamp, explain="True")).json()
    assert answer["method"] == "occlusion"
    cells = np.array(answer["attributions"])
    top, left = np.unravel_index(cells.argmax(), cells.shape)
    assert 8 <= top < 20
    assert 16 <= left < 26
    assert cells[:, :10].max() == 0
    assert max(engine.sizes) <= 16
    png = ask(archive, Input.raw(lamp, explain="True", accept="image/png"))
    assert Image.open(BytesIO(png.body)).size == (28, 28)


def test_an_onnx_model_is_explained_by_occlusion(archive, tmp_path, lamp, monkeypatch):
    onnx = pytest.importorskip("vestal_handlers.engines.onnx")
    helper = pytest.importorskip("onnx.helper")
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["y"]),
        ],
        "halves",
        [tensor("x", 1, ["n", 1, 28, 28])],
        [tensor("y", 1, ["n", 2])],
        [helper.make_tensor("w", 1, [784, 2], halves_as_matrix().flatten().tolist())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    engine = onnx.load(tmp_path / "model.onnx", CPU)
    monkeypatch.setattr(handler_of(archive), "engine", engine)
    answer = ask(archive, Input.raw(lamp, explain="True"))
    assert answer.status == 200, answer.body
    assert (answer.json()["method"], answer.json()["label"]) == ("occlusion", "right")


def halves_as_matrix():
    return torch.stack([Halves()(row.reshape(1, 1, 28, 28))[0] for row in torch.eye(784)])


def test_without_captum_an_explanation_is_400(archive, lamp, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    refused, answered = archive.predict([Input.raw(lamp, explain="True"), lamp])
    assert (refused.status, answered.status) == (400, 200)
    assert refused.json()["message"] == (
        "explanations need the package captum, which is not installed on this server"
    )


def test_a_heat_map_of_zeros_is_grey():
    picture = torch.full((3, 10, 20), 255, dtype=torch.uint8)
    pixels = np.asarray(Image.open(BytesIO(heat_map(picture, torch.zeros(3, 10, 20)))))
    assert pixels.shape == (10, 20, 3)
    assert np.unique(pixels).tolist() == [191]
