"""The precision and the memory layout in which an engine computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vestal_handlers import engines
from vestal_handlers.engines.eager import build

CPU = torch.device("cpu")


# torch's own modules cause deprecation warnings while they export.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("rows", [1, 8])
def test_channels_last_returns_exactly_the_outputs_of_that_layout(conv, rows):
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


@pytest.mark.parametrize("file", ["model.pth", "model.pt", "model.pt2"])
def test_bf16_uses_autocast_and_returns_fp32(conv, file):
    output = conv.run(file, precision="bf16")
    difference = (output - conv.plain()).abs().max()
    assert output.dtype == torch.float32
    assert 0 < difference < 0.05 * conv.plain().abs().max()
    assert engines.load(conv.folder / file, CPU, "bf16").describe()["precision"] == "bf16"


def test_a_half_precision_onnx_file_is_described_and_returns_fp32(tmp_path):
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


DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("kind", ["traced", "scripted", "frozen", "exported"])
def test_an_artifact_computes_in_its_own_precision(saved_models, tmp_path, kind, precision):
    saved, dtype = saved_models["conv"], DTYPES[precision]
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
