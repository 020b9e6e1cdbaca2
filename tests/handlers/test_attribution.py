"""Integrated gradients and occlusion, for samples of one tensor and of several."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from folders import as_json, ask
from pairs import FILES, HANDLER, write_models, write_pair
from plain_engines import WithGradients, WithoutGradients
from torch import nn

from vestal.inprocess import LoadedArchive
from vestal_handlers.errors import HandlerError
from vestal_handlers.tasks.explaining import Attribution, attribute

CPU = torch.device("cpu")
EXPLAINING_HANDLER = (
    HANDLER
    + """
        def explain(self, sample, instance):
            from vestal_handlers.tasks.explaining import attribute

            baseline = {"ids": torch.zeros(4, dtype=torch.int64), "weights": torch.ones(4)}
            found = attribute(
                self.engine, sample, baseline, lambda outputs: first(outputs)[:, 1],
                device=self.device,
            )
            values = {name: each.tolist() for name, each in found.values.items()}
            return {"values": values, "scores": [found.score, found.baseline_score],
                    "method": found.method}


    def first(outputs):
        return outputs["logits"] if isinstance(outputs, dict) else outputs[0]
"""
)


class Weighted(nn.Module):
    """2 * a0 - 3 * a1 + 5 * b; does not use c."""

    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return 2 * a[:, 0] - 3 * a[:, 1] + 5 * b


def linear(*weights: float) -> nn.Linear:
    line = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        line.weight.copy_(torch.tensor([weights]))
    return line


@pytest.mark.parametrize(
    ("engine", "method"),
    [(WithGradients, "integrated_gradients"), (WithoutGradients, "occlusion")],
)
def test_a_sample_of_several_tensors_is_explained_by_name(engine, method):
    sample = {"a": torch.tensor([5.0, 7.0]), "b": torch.tensor(3.0), "c": torch.ones(2)}
    baseline = {"c": torch.zeros(2), "b": torch.tensor(1.0), "a": torch.zeros(2)}
    found = attribute(engine(Weighted()), sample, baseline, lambda scores: scores, device=CPU)
    assert found.method == method
    values = {name: each.tolist() for name, each in found.values.items()}
    assert values["a"] == pytest.approx([10, -21], abs=1e-4)
    assert values["b"] == pytest.approx(10, abs=1e-4)
    assert values["c"] == [0, 0]
    assert (found.score, found.baseline_score) == (4, 5)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return folder, write_models(folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("file", ["eager", "torchscript", "exported", "onnx"])
def test_token_ids_are_explained_by_occlusion_on_every_engine(models, tmp_path, file):
    folder, module = models
    write_pair(tmp_path / "archive", folder, FILES[file], EXPLAINING_HANDLER)
    ids, weights = [3, 0, 7, 1], [1.0, 2.0, 1.0, 0.5]
    with LoadedArchive(tmp_path / "archive") as loaded:
        answer = ask(loaded, as_json({"ids": ids, "weights": weights}, explain="True"))
    assert answer.status == 200, answer.body
    assert answer.json()["method"] == "occlusion"

    def score(ids, weights):
        with torch.no_grad():
            return module(torch.tensor([ids]), torch.tensor([weights]))["logits"][0, 1].item()

    at_input, at_baseline = answer.json()["scores"]
    assert at_input == pytest.approx(score(ids, weights), abs=1e-4)
    assert at_baseline == pytest.approx(score([0] * 4, [1.0] * 4), abs=1e-4)
    for place in range(4):
        masked = [0 if index == place else each for index, each in enumerate(ids)]
        expected = at_input - score(masked, weights)
        assert answer.json()["values"]["ids"][place] == pytest.approx(expected, abs=1e-4)
        masked = [1.0 if index == place else each for index, each in enumerate(weights)]
        expected = at_input - score(ids, masked)
        assert answer.json()["values"]["weights"][place] == pytest.approx(expected, abs=1e-4)


def test_occlusion_of_a_row_is_one_value_at_a_time():
    sample = torch.tensor([5.0, 7.0, 9.0, 0.0])
    engine = WithoutGradients(linear(2, -3, 1, 5))
    found = attribute(engine, sample, torch.zeros(4), lambda out: out[:, 0], device=CPU)
    assert found.method == "occlusion"
    assert found.values.tolist() == pytest.approx([10, -21, 9, 0])
    assert (found.score, found.baseline_score) == (-2, 0)


def test_occlusion_of_a_matrix_is_one_value_at_a_time():
    sample = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    engine = WithoutGradients(nn.Sequential(nn.Flatten(), linear(1, 10, 100, 1000)))
    found = attribute(engine, sample, torch.zeros(2, 2), lambda out: out[:, 0], device=CPU)
    assert found.values.tolist() == [[1, 20], [300, 4000]]


def test_occlusion_of_an_image_is_one_window_at_a_time():
    sample = torch.ones(2, 20, 9)  # windows of 3 x 2 pixels
    engine = WithoutGradients(nn.Flatten())
    found = attribute(engine, sample, sample * 0, lambda out: out.sum(1), device=CPU)
    expected = torch.full((2, 20, 9), 12.0)  # pixels of a window, in both channels
    expected[:, 18:] *= 2 / 3  # the last windows are cut
    expected[:, :, 8:] *= 1 / 2
    assert torch.allclose(found.values, expected)


def test_a_sample_made_in_inference_mode_is_explained():
    with torch.inference_mode():
        sample = torch.ones(3)
    engine = WithGradients(linear(1, -2, 3))
    found = attribute(engine, sample, torch.zeros(3), lambda out: out[:, 0], device=CPU)
    assert found.values.tolist() == pytest.approx([1, -2, 3], abs=1e-5)


def test_infinite_gradients_are_an_error():
    class Root(nn.Module):
        def forward(self, x):
            return (x * 0).sqrt()

    with pytest.raises(HandlerError, match="attributions are not finite"):
        attribute(
            WithGradients(Root()), torch.ones(1), torch.zeros(1), lambda out: out[:, 0], device=CPU
        )


def test_an_explanation_after_the_deadline_is_an_error():
    engine = WithGradients(linear(1, 2))
    with pytest.raises(HandlerError, match=r"took too long; .* lower handler\.n_steps"):
        attribute(
            engine, torch.ones(2), torch.zeros(2), lambda out: out[:, 0], device=CPU, deadline=0
        )


def test_steps_in_several_passes_give_the_same_attributions(monkeypatch):
    engine, sample = WithGradients(nn.Sequential(nn.Flatten(), nn.Linear(784, 2))), torch.rand(784)

    def found():
        return attribute(
            engine, sample, torch.zeros(784), lambda out: out.softmax(1)[:, 0], device=CPU
        )

    once = found()
    monkeypatch.setattr("vestal_handlers.tasks.explaining._VALUES_A_PASS", 784 * 3)
    assert torch.allclose(once.values, found().values, atol=1e-6)


def test_cells_of_an_occlusion_are_means():
    found = Attribution(torch.ones(3, 64, 100), 1.0, 0.0, "occlusion")
    assert found.cells() == [[1.0] * 32] * 32


def test_the_example_in_the_docs_runs():
    class Sum(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a.sum(1, keepdim=True) + b

    page = Path(__file__).parents[2] / "docs" / "guides" / "explain.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    names = {"torch": torch, "engine": WithGradients(Sum())}
    exec(block, names)
    values = names["found"].values
    assert values["a"].tolist() == pytest.approx([5, 7], abs=1e-4)
    assert values["b"].tolist() == pytest.approx([3], abs=1e-4)
