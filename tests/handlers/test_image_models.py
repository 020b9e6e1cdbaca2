"""ResNet18 and LeNet5, as in tutorials, through the handler on every engine."""

from __future__ import annotations

import base64
import json
import textwrap
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.io import decode_image

from vestal.inprocess import Input, LoadedArchive
from vestal.mar.layout import MANIFEST
from vestal_handlers.engines.eager import build
from vestal_handlers.model_files import load_module

# torch's own modules cause deprecation warnings while they export.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

MODELS = {
    "resnet18": """
        from torchvision.models import resnet18

        def build():
            return resnet18()
    """,
    "lenet5": """
        import torch
        from torch import nn

        class LeNet5(nn.Module):
            def __init__(self):
                super().__init__()
                self.features = nn.Sequential(
                    nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
                    nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
                )
                self.classifier = nn.Sequential(
                    nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)
                )

            def forward(self, x):
                return self.classifier(torch.flatten(self.features(x), 1))

        def build():
            return LeNet5()
    """,
}
TRANSFORMS = {
    "resnet18": """
        v2.Resize(256, antialias=True),
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    """,
    "lenet5": """
        v2.Resize((32, 32), antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    """,
}
CLASSES = {"resnet18": 1000, "lenet5": 10}
INPUTS = {"resnet18": (3, 224, 224), "lenet5": (3, 32, 32)}
ARTIFACTS = ["model.pth", "model.safetensors", "model.pt", "model.pt2", "model.onnx"]


class Model:
    """A seeded module, and unpacked archives of it for each engine."""

    def __init__(self, folder: Path, name: str, photos: list[bytes]) -> None:
        self.folder, self.name = folder, name
        self._write_code()
        self.transform = load_module(folder, "transforms").transform
        torch.manual_seed(0)
        self.module = build(folder)
        batch = torch.stack([self.transform(self.transform.decode(photo)) for photo in photos])
        for part in self.module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = 1.0
        with torch.no_grad():
            self.module(batch)  # in training: else all photos look the same to random weights
        self.module.eval()
        self._save(batch)

    def _write_code(self) -> None:
        files = {
            "model.py": textwrap.dedent(MODELS[self.name]),
            "transforms.py": (
                "import torch\nfrom torchvision.transforms import v2\n"
                "from vestal_handlers.images.decoding import ImageTransform\n"
                f'transform = ImageTransform("RGB", ({TRANSFORMS[self.name]}))\n'
            ).replace("\\\n", "\n"),
            "index_to_name.json": json.dumps({str(i): f"c{i}" for i in range(CLASSES[self.name])}),
            "handler.py": (
                "from vestal_handlers.tasks.image_classifier import ImageClassifier\n\n\n"
                "class Handler(ImageClassifier):\n    pass\n"
            ),
        }
        (self.folder / "MAR-INF").mkdir()
        for file, text in files.items():
            (self.folder / file).write_text(text)

    def _save(self, batch: torch.Tensor) -> None:
        import warnings

        from safetensors.torch import save_file

        torch.save(self.module.state_dict(), self.folder / "model.pth")
        save_file(self.module.state_dict(), self.folder / "model.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(self.module, batch).save(self.folder / "model.pt")
        dynamic = ({0: torch.export.Dim("batch", min=1)},)
        program = torch.export.export(self.module, (batch,), dynamic_shapes=dynamic)
        torch.export.save(program, self.folder / "model.pt2")
        torch.onnx.export(
            self.module,
            (batch,),
            self.folder / "model.onnx",
            dynamo=True,
            dynamic_shapes=dynamic,
            external_data=False,
            verbose=False,
        )

    def load(self, artifact: str, **options) -> LoadedArchive:
        model = {
            "modelName": self.name,
            "modelVersion": "1.0",
            "handler": "handler.py",
            "serializedFile": artifact,
            "configFile": "model-config.yaml",
        }
        config = {"batchSize": 2, "handler": {"top_k": 5, "threads": 1, **options}}
        (self.folder / MANIFEST).write_text(json.dumps({"model": model}))
        (self.folder / "model-config.yaml").write_text(json.dumps(config))  # JSON is YAML
        return LoadedArchive(self.folder)


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory, photos):
    return Model(tmp_path_factory.mktemp(request.param), request.param, photos)


@pytest.fixture(scope="module")
def photos():
    """Six crops of real photos in several sizes and formats, as files."""
    from sklearn.datasets import load_sample_images

    files = []
    for number, photo in enumerate(load_sample_images().images):
        for top, left, height, width, kind in (
            (0, 0, 427, 640, "JPEG"),
            (40, 90, 300, 257, "PNG"),
            (100, 10, 210, 400, "JPEG"),
        ):
            crop = np.ascontiguousarray(photo[top : top + height, left + number : left + width])
            buffer = BytesIO()
            Image.fromarray(crop).save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
            files.append(buffer.getvalue())
    return files


@pytest.fixture(scope="module")
def expected(model, photos):
    return plain(model, photos)


def plain(model: Model, files: list[bytes]) -> tuple[list[str], torch.Tensor]:
    """The predictions of a plain script, one image at a time: eval, no_grad, softmax, argmax."""
    net = build(model.folder)
    net.load_state_dict(torch.load(model.folder / "model.pth", weights_only=True))
    net.eval()
    labels, probabilities = [], []
    with torch.no_grad():
        for file in files:
            image = decode_image(torch.frombuffer(bytearray(file), dtype=torch.uint8), mode="RGB")
            output = torch.softmax(net(model.transform(image).unsqueeze(0)), dim=1)
            labels.append(f"c{output.argmax(dim=1).item()}")
            probabilities.append(output[0])
    return labels, torch.stack(probabilities)


def test_a_state_dict_gives_exactly_the_outputs_of_the_trained_model(model, photos):
    batch = torch.stack([model.transform(model.transform.decode(photo)) for photo in photos])
    with model.load("model.pth", warm_up=False) as loaded, torch.inference_mode():
        handler = loaded._service._entry_point.__self__
        assert torch.equal(torch.stack(handler.forward(list(batch))), model.module(batch))


def test_channels_last_gives_the_same_predictions_within_rounding(model, photos, expected):
    labels, probabilities = expected
    with model.load("model.pth", channels_last=True) as loaded:
        answers = loaded.predict(photos)
    assert [answer.json()["label"] for answer in answers] == labels
    for answer, plainly in zip(answers, probabilities, strict=True):
        assert abs(answer.json()["probability"] - plainly.max()) < 1e-5


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_every_engine_predicts_as_a_plain_script(model, photos, expected, artifact):
    labels, probabilities = expected
    assert len(set(labels)) > 1  # else it would not say much
    # Torch engines add in the same order; ONNX Runtime does not.
    tolerance = 1e-4 if artifact == "model.onnx" else 1e-5
    with model.load(artifact) as loaded:
        answers = loaded.predict(photos) + [loaded.predict([photo])[0] for photo in photos]
    for index, answer in enumerate(answers):
        assert answer.status == 200, answer.body
        body, plainly = answer.json(), probabilities[index % len(photos)]
        assert body["label"] == labels[index % len(photos)]
        for item in body["top"]:
            assert abs(item["probability"] - plainly[int(item["label"][1:])]) < tolerance


def test_serving_prepares_the_tensor_of_training(model, photos):
    """Training decodes a file with torchvision, or has its pixels, and applies the transform."""
    with model.load("model.pth", warm_up=False) as loaded:
        handler = loaded._service._entry_point.__self__
        prepared = []
        for wrap in (bytearray, bytes, lambda data: base64.b64encode(data).decode()):
            for photo in photos:
                instance = type("Asked", (), {"payload": wrap(photo), "form": None})()
                prepared.append(handler.decode(instance))
    for index, tensor in enumerate(prepared):
        photo = photos[index % len(photos)]
        image = decode_image(torch.frombuffer(bytearray(photo), dtype=torch.uint8), mode="RGB")
        assert tensor.shape == INPUTS[model.name]
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.transform(image))
        assert torch.equal(tensor, model.transform(image.contiguous()))


def test_bad_photos_do_not_affect_the_good_ones_of_a_batch(model, photos):
    with model.load("model.pth") as loaded:
        alone = [loaded.predict([photo])[0].json() for photo in photos[:2]]
        first, bad, last = loaded.predict([photos[0], photos[1][:200], photos[1]])
    assert (first.status, bad.status, last.status) == (200, 400, 200)
    for answer, expected in ((first, alone[0]), (last, alone[1])):
        assert answer.json()["label"] == expected["label"]
        assert abs(answer.json()["probability"] - expected["probability"]) < 1e-5


def test_describe_names_the_engine(model):
    options = {"precision": "bf16", "channels_last": True, "warm_up": False}
    with model.load("model.pth", **options) as loaded:
        (answer,) = loaded.predict([Input({}, headers={"describe": "True"})])
    engine = answer.json()["engine"]
    assert (engine["name"], engine["precision"]) == ("eager", "bf16")
    assert engine["built_for"]["memory"] == "channels_last"
