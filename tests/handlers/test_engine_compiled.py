"""The compiled engine: torch.compile in the worker, where there is a C++ compiler."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from compilers import require_compiler

from vestal_handlers import engines

CPU = torch.device("cpu")
BROKEN = """
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x) if x.sum().item() > 0 else x


def build():
    return Model()
"""


@pytest.fixture
def compiler():
    require_compiler()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"CXX": "missing-compiler"}, "needs a C\\+\\+ compiler, and there is no missing-compiler"),
        ({"PATH": "/nowhere"}, "needs a C\\+\\+ compiler, and there is no g\\+\\+ in PATH"),
    ],
)
def test_without_a_compiler_it_says_so(conv, monkeypatch, variables, message):
    monkeypatch.delenv("CXX", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        engines.load(conv.folder / "model.pth", CPU, name="compiled")


def test_only_a_state_dict_can_be_compiled(conv, compiler):
    with pytest.raises(ValueError, match=r"model\.pt is not a state_dict"):
        engines.load(conv.folder / "model.pt", CPU, name="compiled")


@pytest.mark.slow
def test_it_agrees_with_the_module_for_any_batch_and_describes_itself(conv, compiler, tmp_path):
    folder = Path(shutil.copytree(conv.folder, tmp_path / "model"))
    engine = engines.load(folder / "model.safetensors", CPU, name="compiled", channels_last=True)
    with torch.inference_mode():
        for rows in (1, 3, 8):
            difference = engine(conv.inputs[:rows]) - conv.module(conv.inputs[:rows])
            assert difference.abs().max() < 1e-5
    described = engine.describe()
    assert (described["name"], described["precision"]) == ("compiled", "fp32")
    assert described["built_for"]["compiler"] == "g++"
    assert described["built_for"]["cpu"] == torch.backends.cpu.get_cpu_capability()
    assert list((folder / ".compiled").rglob("*.so"))


@pytest.mark.slow
def test_gradients_are_those_of_the_module(conv, compiler, tmp_path):
    folder = Path(shutil.copytree(conv.folder, tmp_path / "model"))
    engine = engines.load(folder / "model.pth", CPU, name="compiled")
    inputs = conv.inputs[:2].clone().requires_grad_()
    engine.module(inputs).sum().backward()
    expected = conv.inputs[:2].clone().requires_grad_()
    conv.module(expected).sum().backward()
    assert torch.equal(inputs.grad, expected.grad)


@pytest.mark.slow
def test_a_model_that_cannot_be_compiled_as_a_whole_is_not_run_in_eager(compiler, tmp_path):
    (tmp_path / "model.py").write_text(BROKEN)
    layer = torch.nn.Linear(3, 2)
    state = {f"layer.{name}": value for name, value in layer.state_dict().items()}
    torch.save(state, tmp_path / "model.pth")
    engine = engines.load(tmp_path / "model.pth", CPU, name="compiled")
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"item|data-dependent"):
        engine(torch.ones(2, 3))
