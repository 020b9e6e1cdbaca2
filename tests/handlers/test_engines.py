"""Each engine gives what the plain module gives, and says by name what it cannot load."""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from vestal_handlers import engines
from vestal_handlers.engines.eager import build
from vestal_handlers.engines.outputs import select_output

CPU = torch.device("cpu")
# torch's own modules warn of each other while they export.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

ARCHITECTURES = {
    "conv": """
        from torch import nn

        def build():
            return nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(8, 16, 3), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(576, 5),
            )
    """,
    "mlp": """
        from torch import nn

        def build():
            return nn.Sequential(nn.Linear(3, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 1))
    """,
}
INPUTS = {"conv": (3, 16, 16), "mlp": (3,)}


class Saved:
    """A seeded module in eval mode, saved for every engine in one folder."""

    def __init__(self, folder: Path, kind: str) -> None:
        from safetensors.torch import save_file

        (folder / "model.py").write_text(textwrap.dedent(ARCHITECTURES[kind]))
        self.folder = folder
        torch.manual_seed(0)
        self.module = build(folder)
        self.inputs = torch.randn(8, *INPUTS[kind])
        self.module(self.inputs)  # in training: gives batch norm its moments
        self.module.eval()
        torch.save(self.module.state_dict(), folder / "model.pth")
        save_file(self.module.state_dict(), folder / "model.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(self.module, self.inputs[:2]).save(folder / "model.pt")
        self.export(folder / "model.pt2", {0: torch.export.Dim("batch", min=1)})
        self.export(folder / "one.pt2", None, 1)
        self.to_onnx(folder / "model.onnx", {0: torch.export.Dim("batch", min=1)})
        self.to_onnx(folder / "three.onnx", None, 3)

    def export(self, path: Path, dynamic: dict | None, rows: int = 2) -> None:
        shapes = (dynamic,) if dynamic else None
        program = torch.export.export(self.module, (self.inputs[:rows],), dynamic_shapes=shapes)
        torch.export.save(program, path)

    def to_onnx(self, path: Path, dynamic: dict | None, rows: int = 2) -> None:
        torch.onnx.export(
            self.module,
            (self.inputs[:rows],),
            path,
            dynamo=True,
            dynamic_shapes=(dynamic,) if dynamic else None,
            external_data=False,
            verbose=False,
        )

    def plain(self, rows: int = 8) -> torch.Tensor:
        with torch.no_grad():
            return self.module(self.inputs[:rows])

    def run(self, file: str, rows: int = 8, **options) -> torch.Tensor:
        with torch.inference_mode():
            return engines.load(self.folder / file, CPU, **options)(self.inputs[:rows])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return {kind: Saved(tmp_path_factory.mktemp(kind), kind) for kind in ARCHITECTURES}


@pytest.fixture(params=ARCHITECTURES)
def saved(request, both):
    return both[request.param]


@pytest.fixture
def conv(both):
    return both["conv"]


@pytest.mark.parametrize("rows", range(1, 9))
def test_torchscript_gives_the_modules_outputs_exactly(saved, rows):
    assert torch.equal(saved.run("model.pt", rows), saved.plain(rows))


@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize("file", ["model.pth", "model.safetensors"])
def test_eager_gives_the_modules_outputs_exactly(saved, file, rows):
    assert torch.equal(saved.run(file, rows), saved.plain(rows))


@pytest.mark.parametrize("rows", [1, 8])
def test_channels_last_gives_that_layouts_outputs_exactly(conv, rows):
    engine = engines.load(conv.folder / "model.pth", CPU, channels_last=True)
    assert engine.describe()["built_for"]["memory"] == "channels_last"
    same = build(conv.folder).eval()
    same.load_state_dict(conv.module.state_dict())
    same.to(memory_format=torch.channels_last)
    inputs = conv.inputs[:rows]
    with torch.inference_mode():
        output = engine(inputs)
        assert torch.equal(output, same(inputs.contiguous(memory_format=torch.channels_last)))
    assert (output - conv.plain(rows)).abs().max() < 1e-5


@pytest.mark.parametrize("file", ["model.pt", "model.pt2", "model.onnx"])
def test_an_engine_without_the_layout_refuses_it_by_name(conv, file):
    with pytest.raises(ValueError, match=r"handler\.channels_last: true .* engine has no such"):
        engines.load(conv.folder / file, CPU, channels_last=True)


def test_eager_holds_the_weights_to_the_bit(saved):
    module = engines.load(saved.folder / "model.pth", CPU).module
    for name, weight in saved.module.state_dict().items():
        assert torch.equal(module.state_dict()[name], weight), name


@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize("file", ["model.pt2", "one.pt2", "model.onnx", "three.onnx"])
def test_compiled_forms_give_the_modules_outputs_within_rounding(saved, file, rows):
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
def test_an_engine_says_what_it_is(conv, file, name, batch):
    described = engines.load(conv.folder / file, CPU).describe()
    assert described["name"] == name
    assert described["precision"] == "fp32"
    assert described["device"] == "cpu"
    assert described["threads"] == torch.get_num_threads()
    assert described["runtime"].split()[0] in ("torch", "onnxruntime")
    assert described["built_for"]["batch"] == batch
    assert described["built_for"].get("input", [3, 16, 16]) == [3, 16, 16]


def test_a_fixed_batch_is_said_in_the_log(conv, caplog):
    engines.load(conv.folder / "three.onnx", CPU)
    engines.load(conv.folder / "model.onnx", CPU)
    assert "three.onnx takes batches of 3: larger ones are split" in caplog.text
    assert "model.onnx" not in caplog.text


@pytest.mark.parametrize("limits", [{"max": 4}, {"min": 3, "max": 6}, {"min": 4}])
def test_a_bounded_batch_is_split_and_filled(conv, tmp_path, limits):
    path = tmp_path / "bounded.pt2"
    conv.export(path, {0: torch.export.Dim("batch", **limits)}, 4)
    engine = engines.load(path, CPU)
    for rows in range(1, 9):
        with torch.inference_mode():
            output = engine(conv.inputs[:rows])
        assert (output - conv.plain(rows)).abs().max() < 1e-4, rows


@pytest.mark.parametrize("file", ["model.pth", "model.pt", "model.pt2"])
def test_gradients_pass_the_module_of_a_torch_engine(conv, file):
    inputs = conv.inputs.clone().requires_grad_()
    engines.load(conv.folder / file, CPU).module(inputs).sum().backward()
    assert inputs.grad.abs().sum() > 0


@pytest.mark.parametrize("file", ["model.onnx", "one.pt2"])
def test_an_engine_without_gradients_for_any_batch_has_no_module(conv, file):
    assert engines.load(conv.folder / file, CPU).module is None


@pytest.mark.parametrize("file", ["model.pth", "model.pt", "model.pt2"])
def test_bf16_is_computed_by_autocast_and_comes_back_as_fp32(conv, file):
    output = conv.run(file, precision="bf16")
    difference = (output - conv.plain()).abs().max()
    assert output.dtype == torch.float32
    assert 0 < difference < 0.05 * conv.plain().abs().max()
    assert engines.load(conv.folder / file, CPU, "bf16").describe()["precision"] == "bf16"


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
def test_a_precision_that_cannot_be_is_refused(conv, file, precision, message):
    with pytest.raises(ValueError, match=message):
        engines.load(conv.folder / file, CPU, precision)


def test_a_half_precision_onnx_file_says_so_and_answers_in_fp32(tmp_path):
    module = nn.Linear(4, 2).half().eval()
    torch.onnx.export(
        module,
        (torch.ones(2, 4).half(),),
        tmp_path / "half.onnx",
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    engine = engines.load(tmp_path / "half.onnx", CPU)
    output = engine(torch.ones(3, 4))
    assert engine.describe()["precision"] == "fp16"
    assert output.dtype == torch.float32
    assert torch.allclose(output, module.float()(torch.ones(3, 4)), atol=1e-2)


# --- what cannot be loaded ----------------------------------------------------------------------


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
    """Replaces or adds a member of a .pt2 by a pickle that prints."""
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
def test_weights_that_do_not_fit_are_named(conv, tmp_path, change, message):
    (tmp_path / "model.py").write_text((conv.folder / "model.py").read_text())
    weights = dict(conv.module.state_dict())
    change(weights)
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=message):
        engines.load(tmp_path / "model.pth", CPU)


def test_tied_weights_need_one_name_only(tmp_path):
    (tmp_path / "model.py").write_text(
        "from torch import nn\n\ndef build():\n    model = nn.Sequential(nn.Embedding(5, 3),"
        " nn.Linear(3, 5, bias=False))\n    model[1].weight = model[0].weight\n    return model\n"
    )
    weight = torch.randn(5, 3)
    torch.save({"0.weight": weight}, tmp_path / "model.pth")
    output = engines.load(tmp_path / "model.pth", CPU)(torch.tensor([[1], [2]]))
    assert torch.allclose(output[:, 0], weight[1:3] @ weight.T)


@pytest.mark.parametrize(
    ("file", "copy_of", "message"),
    [
        ("x.pth", b"nothing of the kind", r"x\.pth (is not a state_dict|holds more than tensors)"),
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
def test_a_file_of_another_kind_is_refused_by_name(conv, tmp_path, file, copy_of, message):
    (tmp_path / "model.py").write_text((conv.folder / "model.py").read_text())
    data = copy_of if isinstance(copy_of, bytes) else (conv.folder / copy_of).read_bytes()
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
def test_the_architecture_is_asked_for(conv, tmp_path, code, error, message):
    (tmp_path / "model.pth").write_bytes((conv.folder / "model.pth").read_bytes())
    if code:
        (tmp_path / "model.py").write_text(code)
    with pytest.raises(error, match=message):
        engines.load(tmp_path / "model.pth", CPU)


def by_classes(folder: Path, signature: str, labels: int | None) -> Path:
    """An archive's folder whose architecture is as wide as there are labels."""
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
def test_an_architecture_is_as_wide_as_there_are_labels(tmp_path, signature, labels):
    engine = engines.load(by_classes(tmp_path, signature, labels), CPU)
    assert engine(torch.zeros(2, 4)).shape == (2, 7)


def test_an_architecture_that_needs_labels_says_so_where_there_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"build\(classes\) .* no index_to_name\.json in"):
        engines.load(by_classes(tmp_path, "classes", None), CPU)


@pytest.mark.parametrize(
    ("package", "file"), [("onnxruntime", "model.onnx"), ("safetensors", "model.safetensors")]
)
def test_a_missing_package_is_named(conv, monkeypatch, package, file):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=f"{file} needs the package {package}"):
        engines.load(conv.folder / file, CPU)


def test_onnx_takes_the_workers_share_of_threads(conv):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert engines.load(conv.folder / "model.onnx", CPU).describe()["threads"] == 1
    finally:
        torch.set_num_threads(before)


def test_an_engine_may_stand_beside_the_artifact(conv, tmp_path):
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


class Several(nn.Module):
    """One input; outputs as a tuple, a dict, a named tuple or a list."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(3, 2), kind

    def forward(self, x):
        y = self.layer(x)
        if self.kind == "tuple":
            return y, y.softmax(1)
        if self.kind == "one in a tuple":
            return (y,)
        return {"logits": y, "probabilities": y.softmax(1)}


def several(kind: str, file: Path) -> nn.Module:
    torch.manual_seed(0)
    module = Several(kind).eval()
    inputs = torch.zeros(2, 3)
    if file.suffix == ".pt":
        torch.jit.trace(module, inputs, strict=False).save(file)
    elif file.suffix == ".pt2":
        batch = torch.export.Dim("batch", min=1)
        torch.export.save(
            torch.export.export(module, (inputs,), dynamic_shapes=({0: batch},)), file
        )
    else:
        torch.onnx.export(
            module, (inputs,), file, dynamo=True, external_data=False, verbose=False,
            output_names=["logits", "probabilities"],
        )  # fmt: skip
    return module


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
@pytest.mark.parametrize(("kind", "names"), [("tuple", "0, 1"), ("dict", "logits, probabilities")])
def test_of_several_outputs_the_chosen_one_is_served(tmp_path, kind, names, suffix):
    file = tmp_path / f"model{suffix}"
    module = several(kind, file)
    inputs = torch.randn(4, 3)
    with torch.inference_mode():
        with pytest.raises(ValueError, match=rf"has 2 outputs \({names}\), but only one is"):
            engines.load(file, CPU)(inputs)
        for output in (1, names.split(", ")[1]):
            found = engines.load(file, CPU, output=output)(inputs)
            assert torch.allclose(found, module.layer(inputs).softmax(1), atol=1e-5)
        for output in (2, "other"):
            with pytest.raises(ValueError, match=rf"no output {output!r} \(handler.output\)"):
                engines.load(file, CPU, output=output)(inputs)


def test_of_an_onnx_files_outputs_the_chosen_one_is_served(tmp_path):
    file = tmp_path / "model.onnx"
    module = several("tuple", file)
    inputs = torch.randn(2, 3)
    with pytest.raises(ValueError, match=r"model\.onnx has 2 outputs \(logits, probabilities\)"):
        engines.load(file, CPU)
    found = engines.load(file, CPU, output="probabilities")(inputs)
    assert torch.allclose(found, module.layer(inputs).softmax(1), atol=1e-5)


def test_one_tensor_in_a_tuple_is_the_output(tmp_path):
    module = several("one in a tuple", tmp_path / "model.pt")
    inputs = torch.randn(2, 3)
    assert torch.equal(engines.load(tmp_path / "model.pt", CPU)(inputs), module.layer(inputs))


def test_an_engine_of_ones_own_without_outputs_refuses_the_option(conv, tmp_path):
    (tmp_path / "mine.py").write_text("def load(artifact, device, precision):\n    ...\n")
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"handler\.output: 1 .* has no parameter output"):
        engines.load(tmp_path / "model.pt", CPU, name="mine", output=1)


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Named(NamedTuple):
    logits: torch.Tensor
    hidden: torch.Tensor


TENSOR = torch.ones(1, 2)


@pytest.mark.parametrize(
    ("value", "output"),
    [
        (Answer(TENSOR), None),
        ({"out": TENSOR, "aux": None}, None),
        (Named(TENSOR, TENSOR + 1), "logits"),
        ([TENSOR], None),
        (TENSOR, 0),
    ],
)
def test_an_output_is_picked_from_what_models_return(value, output):
    assert select_output(value, output, "model.pt") is TENSOR


@pytest.mark.parametrize("value", [None, {}, [{"boxes": 1}], "text"])
def test_an_output_without_tensors_is_one_sentence(value):
    with pytest.raises(ValueError, match=r"model\.pt returns a \w+ without a tensor"):
        select_output(value, None, "model.pt")


DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("kind", ["traced", "scripted", "frozen", "exported"])
def test_an_artifact_computes_in_its_own_precision(both, tmp_path, kind, precision):
    saved, dtype = both["conv"], DTYPES[precision]
    module = build(saved.folder).eval()
    module.load_state_dict(saved.module.state_dict())
    module.to(dtype)
    inputs = saved.inputs[:2].to(dtype)
    if kind == "exported":
        file = tmp_path / "model.pt2"
        torch.export.save(torch.export.export(module, (inputs,)), file)
    else:
        file = tmp_path / "model.pt"
        made = torch.jit.trace(module, inputs) if kind == "traced" else torch.jit.script(module)
        (torch.jit.freeze(made) if kind == "frozen" else made).save(file)
    engine = engines.load(file, CPU)
    with torch.inference_mode():
        found = engine(saved.inputs[:2])
        assert torch.allclose(found, module(inputs).float(), atol=1e-2)
    assert found.dtype == torch.float32
    assert engine.describe()["precision"] == precision
    with pytest.raises(ValueError, match=rf"model\.pt2? was saved in {precision} and keeps"):
        engines.load(file, CPU, "bf16")


def on_cuda(file, made):
    """The .pt2 as a machine with a GPU would have saved it."""
    with zipfile.ZipFile(file) as content, zipfile.ZipFile(made, "w") as changed:
        for name in content.namelist():
            data = content.read(name)
            if name.endswith(".json"):
                data = data.replace(b'"type": "cpu", "index": null', b'"type": "cuda", "index": 0')
            changed.writestr(name, data)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU loads it")
def test_a_pt2_of_a_gpu_is_refused_without_one_in_one_sentence(conv, tmp_path):
    on_cuda(conv.folder / "model.pt2", tmp_path / "model.pt2")
    with pytest.raises(ValueError, match=r"model\.pt2 was exported on CUDA, which this machine"):
        engines.load(tmp_path / "model.pt2", CPU)


class OnCuda(nn.Module):
    def forward(self, x):
        return x.to(torch.device("cuda:0")) + torch.ones(1, device="cuda:0")


class CallsCuda(nn.Module):
    def forward(self, x):
        return x.cuda() + 1


def test_a_device_written_into_torchscript_is_this_workers(tmp_path):
    torch.jit.script(OnCuda()).save(tmp_path / "model.pt")
    assert torch.equal(engines.load(tmp_path / "model.pt", CPU)(torch.zeros(2)), torch.ones(2))


def test_torchscript_that_calls_cuda_is_refused_in_one_sentence(tmp_path):
    torch.jit.script(CallsCuda()).save(tmp_path / "model.pt")
    with pytest.raises(
        ValueError, match=r"model\.pt moves tensors to CUDA .*this worker runs on cpu"
    ):
        engines.load(tmp_path / "model.pt", CPU)
