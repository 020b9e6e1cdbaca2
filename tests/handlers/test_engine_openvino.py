"""The openvino engine, and int8 in the formats that have it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vestal.optimize import quantize
from vestal_handlers import engines
from vestal_handlers.device import sha256_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def int8(saved_models, tmp_path_factory):
    """The convolutional model in int8, for both engines, calibrated with its own inputs."""
    folder = tmp_path_factory.mktemp("int8")
    conv = saved_models["conv"]
    samples = [{"": row[None]} for row in conv.inputs.numpy()]
    quantize.onnx_int8(conv.folder / "model.onnx", folder / "model.onnx", samples, careful=False)
    quantize.openvino(conv.folder / "model.onnx", folder, samples, careful=False)
    return folder


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_openvino_agrees_with_the_module_for_any_batch(saved, rows):
    difference = saved.run("model.xml", rows) - saved.plain(rows)
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("rows", [1, 3, 4, 8])
def test_a_fixed_batch_is_split_and_padded(saved, rows):
    assert torch.allclose(saved.run("three.xml", rows), saved.plain(rows), atol=1e-5)


def test_it_describes_what_really_runs(conv):
    described = engines.load(conv.folder / "model.xml", CPU).describe()
    assert described["name"] == "openvino"
    assert described["precision"] == "fp32"
    assert described["layers"] == {"fp32": 3}
    assert described["threads"] == torch.get_num_threads()
    assert described["built_for"] == {"batch": "any", "input": [3, 16, 16]}


@pytest.mark.parametrize("file", ["model.xml", "model.onnx"])
def test_int8_stays_near_fp32_and_is_described(conv, int8, file):
    engine = engines.load(int8 / file, CPU, "int8")
    output = engine(conv.inputs)
    error = (output - conv.plain()).norm() / conv.plain().norm()
    assert 0 < error < 0.1  # calibrated with 8 inputs
    assert output.dtype == torch.float32
    assert engine.describe()["precision"] == "int8"
    assert engines.load(int8 / file, CPU).describe()["precision"] == "int8"


def test_int8_layers_really_run_in_int8(int8):
    layers = engines.load(int8 / "model.xml", CPU, "int8").describe()["layers"]
    assert layers["int8"] == 3


@pytest.mark.parametrize("file", ["model.xml", "model.onnx"])
def test_int8_needs_a_quantized_file(conv, file):
    with pytest.raises(ValueError, match=r"not quantized|precision that it was exported with"):
        engines.load(conv.folder / file, CPU, "int8")


@pytest.mark.slow
def test_careful_quantization_keeps_layers_in_fp32(conv, tmp_path):
    """An input with a range 1,000 times that of the others leaves no bits for them."""

    class Hard(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hard, self.easy = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)
            with torch.no_grad():
                self.hard.weight[:, 0] = 0
                self.easy.weight /= 100

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.hard(x)
            return torch.cat([hidden, self.easy(hidden)], dim=1)

    module = Hard().eval()
    inputs = torch.randn(64, 16) * torch.tensor([1000.0] + [1.0] * 15)
    torch.onnx.export(
        module, (inputs[:2],), tmp_path / "m.onnx", dynamo=True, external_data=False,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), verbose=False,
    )  # fmt: skip
    samples = [{"": row[None]} for row in inputs.numpy()]
    errors = {}
    for careful in (False, True):
        quantize.openvino(tmp_path / "m.onnx", tmp_path, samples, careful=careful)
        output = engines.load(tmp_path / "model.xml", CPU)(inputs)
        with torch.no_grad():
            errors[careful] = ((output - module(inputs)).norm() / module(inputs).norm()).item()
        layers = engines.load(tmp_path / "model.xml", CPU, "int8").describe()["layers"]
        assert layers["int8"] == (1 if careful else 2)
    assert errors[False] > 10 * quantize.ACCEPTED
    assert errors[True] < quantize.ACCEPTED


def test_bf16_is_refused_without_its_instructions(conv):
    import openvino

    capable = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if capable:
        engine = engines.load(conv.folder / "model.xml", CPU, "bf16")
        assert engine.describe()["layers"] == {"bf16": 3}
    else:
        with pytest.raises(ValueError, match="has no bf16 instructions"):
            engines.load(conv.folder / "model.xml", CPU, "bf16")


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("cpu", "fp16", r"does not support handler\.precision: fp16; use one of fp32, int8, bf16"),
        ("cuda:0", "fp32", r"runs on the CPU, but this worker has cuda:0"),
    ],
)
def test_what_it_cannot_do_is_refused(conv, device, precision, message):
    with pytest.raises(ValueError, match=message):
        engines.load(conv.folder / "model.xml", torch.device(device), precision)


def test_a_broken_file_and_missing_weights_are_refused(conv, tmp_path):
    text = (conv.folder / "model.xml").read_text()
    (tmp_path / "model.xml").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"model\.xml is not a model that OpenVINO .* can run: "):
        engines.load(tmp_path / "model.xml", CPU)
    (tmp_path / "model.xml").write_text(text)
    with pytest.raises(ValueError, match=r"model\.xml is not a model that OpenVINO .* can run: "):
        engines.load(tmp_path / "model.xml", CPU)


def test_a_missing_package_is_named(conv, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package openvino.*pip install"):
        engines.load(conv.folder / "model.xml", CPU)


def test_the_sha256_covers_the_weights(conv, tmp_path):
    for name in ("model.xml", "model.bin"):
        shutil.copyfile(conv.folder / name, tmp_path / name)
    before = sha256_of(tmp_path / "model.xml")
    weights = bytearray((tmp_path / "model.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "model.bin").write_bytes(weights)
    assert sha256_of(tmp_path / "model.xml") != before


def test_the_module_of_torch_compile_is_not_imported():
    """TorchServe would import it in every worker."""
    import vestal_handlers.base  # noqa: F401

    assert "openvino.torch" not in sys.modules


@pytest.mark.parametrize("file", ["model.pth", "model.safetensors"])
def test_weights_are_mapped_and_not_copied(conv, file, tmp_path):
    from vestal.weights.saving import save

    formats = {"model.pth": "state_dict", "model.safetensors": "safetensors"}
    save(conv.module, [formats[file]], tmp_path, torch.empty(0))
    shutil.copyfile(conv.folder / "model.py", tmp_path / "model.py")
    engine = engines.load(tmp_path / file, CPU)
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [
        tuple(int(side, 16) for side in line.split()[0].split("-"))
        for line in lines
        if line.endswith(str(tmp_path / file))
    ]
    pointer = engine.module[0].weight.data_ptr()
    assert any(begin <= pointer < end for begin, end in spans)
    with torch.inference_mode():
        assert torch.equal(engine(conv.inputs), conv.plain())
    assert np.isfinite(engine.module[0].weight.detach().numpy()).all()
