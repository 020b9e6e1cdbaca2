"""One of several outputs of a model is served."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from vestal_handlers import engines
from vestal_handlers.engines.outputs import select_output

CPU = torch.device("cpu")


# torch's own modules cause deprecation warnings while they export.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class TwoOutputs(nn.Module):
    """One input; outputs as a tuple or a dict."""

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


def save_two_outputs(kind: str, file: Path) -> nn.Module:
    torch.manual_seed(0)
    module = TwoOutputs(kind).eval()
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
def test_the_chosen_output_of_several_is_served(tmp_path, kind, names, suffix):
    file = tmp_path / f"model{suffix}"
    module = save_two_outputs(kind, file)
    inputs = torch.randn(4, 3)
    with torch.inference_mode():
        with pytest.raises(ValueError, match=rf"has 2 outputs \({names}\), but only one is"):
            engines.load(file, CPU)(inputs)
        for output in (0, names.split(", ")[0]):
            found = engines.load(file, CPU, output=output)(inputs)
            assert torch.allclose(found, module.layer(inputs), atol=1e-5)
        for output in (1, names.split(", ")[1]):
            found = engines.load(file, CPU, output=output)(inputs)
            assert torch.allclose(found, module.layer(inputs).softmax(1), atol=1e-5)
        for output in (2, "other"):
            with pytest.raises(ValueError, match=rf"no output {output!r} \(handler.output\)"):
                engines.load(file, CPU, output=output)(inputs)


def test_the_chosen_output_of_an_onnx_file_is_served(tmp_path):
    file = tmp_path / "model.onnx"
    module = save_two_outputs("tuple", file)
    inputs = torch.randn(2, 3)
    with pytest.raises(ValueError, match=r"model\.onnx has 2 outputs \(logits, probabilities\)"):
        engines.load(file, CPU)
    found = engines.load(file, CPU, output="probabilities")(inputs)
    assert torch.allclose(found, module.layer(inputs).softmax(1), atol=1e-5)


def test_the_only_tensor_in_a_tuple_is_the_output(tmp_path):
    module = save_two_outputs("one in a tuple", tmp_path / "model.pt")
    inputs = torch.randn(2, 3)
    assert torch.equal(engines.load(tmp_path / "model.pt", CPU)(inputs), module.layer(inputs))


@dataclasses.dataclass
class ModelOutput:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Named(NamedTuple):
    logits: torch.Tensor
    hidden: torch.Tensor


TENSOR = torch.ones(1, 2)


@pytest.mark.parametrize(
    ("value", "output"),
    [
        (ModelOutput(TENSOR), None),
        ({"out": TENSOR, "aux": None}, None),
        (Named(TENSOR, TENSOR + 1), "logits"),
        ([TENSOR], None),
        (TENSOR, 0),
    ],
)
def test_an_output_is_selected_from_each_kind_of_return_value(value, output):
    assert select_output(value, output, "model.pt") is TENSOR


@pytest.mark.parametrize("value", [None, {}, [{"boxes": 1}], "text"])
def test_a_return_value_without_tensors_is_an_error(value):
    with pytest.raises(ValueError, match=r"model\.pt returns a \w+ without a tensor"):
        select_output(value, None, "model.pt")
