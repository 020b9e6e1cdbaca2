"""Each engine returns the outputs of the plain module, and describes itself."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from vestal_handlers import engines
from vestal_handlers.engines.eager import build

# torch's own modules cause deprecation warnings while they export.
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("rows", range(1, 9))
def test_torchscript_returns_exactly_the_outputs_of_the_module(saved, rows):
    assert torch.equal(saved.run("model.pt", rows), saved.plain(rows))


@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize("file", ["model.pth", "model.safetensors"])
def test_eager_returns_exactly_the_outputs_of_the_module(saved, file, rows):
    assert torch.equal(saved.run(file, rows), saved.plain(rows))


def test_eager_has_exactly_the_weights_of_the_file(saved):
    module = engines.load(saved.folder / "model.pth", CPU).module
    for name, weight in saved.module.state_dict().items():
        assert torch.equal(module.state_dict()[name], weight), name


@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize("file", ["model.pt2", "one.pt2", "model.onnx", "three.onnx"])
def test_compiled_models_return_the_outputs_of_the_module_within_rounding(saved, file, rows):
    output = saved.run(file, rows)
    assert output.shape == saved.plain(rows).shape
    assert (output - saved.plain(rows)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("file", "name", "batch"),
    [
        ("model.pth", "eager", "any"),
        ("model.safetensors", "eager", "any"),
        ("model.pt", "torchscript", "any"),
        ("model.pt2", "exported", "any"),
        ("one.pt2", "exported", "1"),
        ("model.onnx", "onnx", "any"),
        ("three.onnx", "onnx", "3"),
    ],
)
def test_an_engine_describes_itself(conv, file, name, batch):
    described = engines.load(conv.folder / file, CPU).describe()
    assert described["name"] == name
    assert described["precision"] == "fp32"
    assert described["device"] == "cpu"
    assert described["threads"] == torch.get_num_threads()
    assert described["runtime"].split()[0] in ("torch", "onnxruntime")
    assert described["built_for"]["batch"] == batch
    assert described["built_for"].get("input", [3, 16, 16]) == [3, 16, 16]


def test_a_fixed_batch_size_is_logged(conv, caplog):
    engines.load(conv.folder / "three.onnx", CPU)
    engines.load(conv.folder / "model.onnx", CPU)
    assert "three.onnx takes batches of 3: larger ones are split" in caplog.text
    assert "model.onnx" not in caplog.text


@pytest.mark.parametrize("limits", [{"max": 4}, {"min": 3, "max": 6}, {"min": 4}])
def test_batches_are_split_and_padded_to_the_sizes_of_the_file(conv, tmp_path, limits):
    path = tmp_path / "bounded.pt2"
    conv.export(path, {0: torch.export.Dim("batch", **limits)}, 4)
    engine = engines.load(path, CPU)
    for rows in range(1, 9):
        with torch.inference_mode():
            output = engine(conv.inputs[:rows])
        assert (output - conv.plain(rows)).abs().max() < 1e-4, rows


@pytest.mark.parametrize("file", ["model.pth", "model.pt", "model.pt2"])
def test_the_module_of_a_torch_engine_has_gradients(conv, file):
    inputs = conv.inputs.clone().requires_grad_()
    engines.load(conv.folder / file, CPU).module(inputs).sum().backward()
    assert inputs.grad.abs().sum() > 0


@pytest.mark.parametrize("file", ["model.onnx", "one.pt2"])
def test_an_engine_without_gradients_or_with_a_fixed_batch_has_no_module(conv, file):
    assert engines.load(conv.folder / file, CPU).module is None


def test_tied_weights_need_only_one_of_their_names(tmp_path):
    (tmp_path / "model.py").write_text(
        "from torch import nn\n\ndef build():\n    model = nn.Sequential(nn.Embedding(5, 3),"
        " nn.Linear(3, 5, bias=False))\n    model[1].weight = model[0].weight\n    return model\n"
    )
    weight = torch.randn(5, 3)
    torch.save({"0.weight": weight}, tmp_path / "model.pth")
    output = engines.load(tmp_path / "model.pth", CPU)(torch.tensor([[1], [2]]))
    assert torch.allclose(output[:, 0], weight[1:3] @ weight.T)


def save_by_classes(folder: Path, signature: str, labels: int | None) -> Path:
    """Save a model whose build(classes) has one output per label."""
    code = f"from torch import nn\n\n\ndef build({signature}):\n    return nn.Linear(4, classes)\n"
    (folder / "model.py").write_text(code)
    if labels is not None:
        names = {str(index): f"label {index}" for index in range(labels)}
        (folder / "index_to_name.json").write_text(json.dumps(names))
    torch.save(nn.Linear(4, 7).state_dict(), folder / "model.pth")
    return folder / "model.pth"


@pytest.mark.parametrize(
    ("signature", "labels"),
    [("classes", 7), ("*, classes: int", 7), ("classes=3", 7), ("classes=7", None)],
)
def test_build_gets_the_number_of_labels(tmp_path, signature, labels):
    engine = engines.load(save_by_classes(tmp_path, signature, labels), CPU)
    assert engine(torch.zeros(2, 4)).shape == (2, 7)


def test_a_build_that_needs_labels_is_an_error_without_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"build\(classes\) .* no index_to_name\.json in"):
        engines.load(save_by_classes(tmp_path, "classes", None), CPU)


def test_onnx_uses_the_threads_of_the_worker(conv):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert engines.load(conv.folder / "model.onnx", CPU).describe()["threads"] == 1
    finally:
        torch.set_num_threads(before)


def test_a_custom_engine_is_loaded_from_the_folder_of_the_artifact(conv, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"7")
    (tmp_path / "constant.py").write_text(
        textwrap.dedent("""
            import torch

            class Constant:
                module = None

                def __init__(self, value):
                    self.value = value

                def __call__(self, batch):
                    return torch.full((len(batch), 1), self.value)

                def describe(self):
                    return {"name": "constant"}

            def load(artifact, device, precision):
                return Constant(float(artifact.read_bytes()))
        """)
    )
    engine = engines.load(tmp_path / "model.bin", CPU, name="constant")
    assert engine(torch.zeros(2, 1)).tolist() == [[7.0], [7.0]]
    with pytest.raises(ValueError, match=r"no engine '\.\./constant'"):
        engines.load(tmp_path / "model.bin", CPU, name="../constant")


class OnCuda(nn.Module):
    def forward(self, x):
        return x.to(torch.device("cuda:0")) + torch.ones(1, device="cuda:0")


def test_a_device_in_torchscript_is_replaced_by_that_of_the_worker(tmp_path):
    torch.jit.script(OnCuda()).save(tmp_path / "model.pt")
    assert torch.equal(engines.load(tmp_path / "model.pt", CPU)(torch.zeros(2)), torch.ones(2))


def save_embedding(file: Path) -> nn.Module:
    """Save a seeded model of one int64 input [N, 4], token ids, in the format of the suffix."""
    code = "from torch import nn\n\n\ndef build():\n    return nn.Sequential("
    code += "nn.Embedding(10, 8), nn.Flatten(), nn.Linear(32, 3))\n"
    (file.parent / "model.py").write_text(code)
    torch.manual_seed(0)
    module = build(file.parent).eval()
    ids, batch = torch.zeros(2, 4, dtype=torch.int64), {0: torch.export.Dim("batch", min=1)}
    match file.suffix:
        case ".pth":
            torch.save(module.state_dict(), file)
        case ".pt":
            torch.jit.script(module).save(str(file))
        case ".pt2":
            program = torch.export.export(module, (ids,), dynamic_shapes=(batch,))
            torch.export.save(program, file)
        case ".onnx":
            torch.onnx.export(
                module, (ids,), file, dynamo=True, dynamic_shapes=(batch,), verbose=False,
                external_data=False,
            )  # fmt: skip
    return module


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pt2", ".onnx"])
def test_token_ids_of_a_single_input_stay_integers(tmp_path, suffix):
    module = save_embedding(tmp_path / f"model{suffix}")
    engine = engines.load(tmp_path / f"model{suffix}", CPU)
    ids = torch.tensor([[1, 2, 3, 4], [9, 0, 1, 9], [5, 5, 5, 5]])
    with torch.inference_mode():
        assert torch.allclose(engine(ids), module(ids), atol=1e-5)
        assert torch.allclose(engine(ids.int()), module(ids), atol=1e-5)
