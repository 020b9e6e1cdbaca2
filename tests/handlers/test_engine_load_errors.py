"""Files that an engine cannot load are refused by name, and no code in them is run."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from vestal_handlers import engines

CPU = torch.device("cpu")


# torch's own modules cause deprecation warnings while they export.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("file", ["model.pt", "model.pt2", "model.onnx"])
def test_an_engine_without_channels_last_refuses_the_option(conv, file):
    with pytest.raises(
        ValueError, match=r"no parameter channels_last; remove handler\.channels_last"
    ):
        engines.load(conv.folder / file, CPU, channels_last=True)


@pytest.mark.parametrize(
    ("file", "precision", "message"),
    [
        (
            "model.pth",
            "fp16",
            r"eager engine does not support handler\.precision: fp16 on cpu; .* fp32, bf16",
        ),
        ("model.pt", "fp16", "torchscript engine does not support .*: fp16 on cpu"),
        ("model.pt2", "half", "exported engine does not support .*: half on cpu"),
        ("model.onnx", "bf16", r"model\.onnx keeps the precision that it was exported with"),
    ],
)
def test_an_unsupported_precision_is_refused(conv, file, precision, message):
    with pytest.raises(ValueError, match=message):
        engines.load(conv.folder / file, CPU, precision)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_with_code_is_refused_and_not_run(conv, tmp_path, capsys):
    (tmp_path / "model.py").write_text((conv.folder / "model.py").read_text())
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(
        ValueError, match=r"evil\.pth holds more than tensors.*none of its code was"
    ):
        engines.load(tmp_path / "evil.pth", CPU)
    assert "code ran" not in capsys.readouterr().out


def with_pickles(source: Path, target: Path, member: str) -> None:
    """Replace or add a member of a .pt2 with a pickle that prints."""
    import pickle

    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            data = old.read(name)
            if member == "weight" and name.endswith("model_weights_config.json"):
                data = data.replace(b'"use_pickle":false', b'"use_pickle":true')
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true')
                assert b"true" in data
            if member == "weight" and "/weights/weight_" in name:
                data = _saved_evil()
            if member == "sample" and "/sample_inputs/" in name:
                data = _saved_evil()
            new.writestr(name, data)
        if member == "opaque":
            new.writestr(f"{root}/data/constants/opaque_obj_0", pickle.dumps(Evil()))


def _saved_evil() -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    torch.save(Evil(), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("member", ["weight", "sample", "opaque"])
def test_an_exported_program_with_pickles_is_refused_and_not_run(conv, tmp_path, capsys, member):
    with_pickles(conv.folder / "model.pt2", tmp_path / "evil.pt2", member)
    with pytest.raises(ValueError, match=r"evil\.pt2"):
        engines.load(tmp_path / "evil.pt2", CPU)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("0.weight"),
            r"model\.pth does not fit build\(\) of model\.py: 0\.weight missing",
        ),
        (
            lambda s: [s.pop(key) for key in list(s)[:6]],
            r"0\.weight, 0\.bias, 1\.weight, 1\.bias and 2 more missing",
        ),
        (lambda s: s.update({"9.weight": torch.ones(1)}), r"9\.weight not in the model"),
        (
            lambda s: s.update({"8.bias": torch.ones(7)}),
            r"8\.bias \[7\], expected \[5\] of another shape",
        ),
        (lambda s: s.clear(), "holds a dict of , expected a state_dict"),
        (lambda s: s.update(epoch=3), "expected a state_dict: tensors by name"),
    ],
)
def test_weights_of_another_architecture_are_refused_with_their_names(
    conv, tmp_path, change, message
):
    (tmp_path / "model.py").write_text((conv.folder / "model.py").read_text())
    weights = dict(conv.module.state_dict())
    change(weights)
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=message):
        engines.load(tmp_path / "model.pth", CPU)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("x.pth", b"no model at all", r"x\.pth (is not a state_dict|holds more than tensors)"),
        ("x.pth", b"", r"x\.pth is not a state_dict"),
        ("x.pth", "model.pt", r"x\.pth is not a state_dict.*handler\.engine: torchscript"),
        ("x.safetensors", b"nothing", r"x\.safetensors is not a safetensors file"),
        ("x.pt", b"nothing", r"x\.pt is not a TorchScript file"),
        ("x.pt", "model.pth", r"x\.pt is not a TorchScript file.*handler\.engine: eager"),
        ("x.pt2", b"nothing", r"x\.pt2 is not a \.pt2 file"),
        ("x.pt2", "model.pt", r"x\.pt2 is not a \.pt2 file"),
        ("x.onnx", b"nothing", r"x\.onnx is not a model that ONNX Runtime .* can run"),
        ("x.tflite", b"nothing", r"no engine for \*\.tflite \(x\.tflite\)"),
    ],
)
def test_a_file_of_another_format_is_refused_by_name(conv, tmp_path, file, content, message):
    (tmp_path / "model.py").write_text((conv.folder / "model.py").read_text())
    data = content if isinstance(content, bytes) else (conv.folder / content).read_bytes()
    (tmp_path / file).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        engines.load(tmp_path / file, CPU)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model\.pt in "):
        engines.load(tmp_path / "model.pt", CPU)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (None, FileNotFoundError, r"no model\.py in"),
        ("x = 1", ValueError, r"model\.py must define build\(\)"),
        ("def build():\n    return 3", ValueError, r"which returns the model's nn\.Module"),
    ],
)
def test_a_state_dict_needs_a_build_function(conv, tmp_path, code, error, message):
    (tmp_path / "model.pth").write_bytes((conv.folder / "model.pth").read_bytes())
    if code:
        (tmp_path / "model.py").write_text(code)
    with pytest.raises(error, match=message):
        engines.load(tmp_path / "model.pth", CPU)


@pytest.mark.parametrize(
    ("package", "file"), [("onnxruntime", "model.onnx"), ("safetensors", "model.safetensors")]
)
def test_a_missing_package_is_named(conv, monkeypatch, package, file):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=f"{file} needs the package {package}"):
        engines.load(conv.folder / file, CPU)


def test_a_custom_engine_without_an_output_parameter_refuses_the_option(conv, tmp_path):
    (tmp_path / "mine.py").write_text("def load(artifact, device, precision):\n    ...\n")
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"the mine engine has no parameter output; remove handler\.output"
    ):
        engines.load(tmp_path / "model.pt", CPU, name="mine", output=1)


def save_as_on_cuda(file, changed_file):
    """Change a .pt2 to what a machine with a GPU would save."""
    with zipfile.ZipFile(file) as content, zipfile.ZipFile(changed_file, "w") as changed:
        for name in content.namelist():
            data = content.read(name)
            if name.endswith(".json"):
                data = data.replace(b'"type": "cpu", "index": null', b'"type": "cuda", "index": 0')
            changed.writestr(name, data)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU loads it")
def test_a_pt2_exported_on_a_gpu_is_refused_on_a_machine_without_one(conv, tmp_path):
    save_as_on_cuda(conv.folder / "model.pt2", tmp_path / "model.pt2")
    with pytest.raises(ValueError, match=r"model\.pt2 was exported on CUDA, which this machine"):
        engines.load(tmp_path / "model.pt2", CPU)


class CallsCuda(nn.Module):
    def forward(self, x):
        return x.cuda() + 1


def test_torchscript_that_calls_cuda_is_refused_on_a_cpu(tmp_path):
    torch.jit.script(CallsCuda()).save(tmp_path / "model.pt")
    with pytest.raises(
        ValueError, match=r"model\.pt moves tensors to CUDA .*this worker runs on cpu"
    ):
        engines.load(tmp_path / "model.pt", CPU)
