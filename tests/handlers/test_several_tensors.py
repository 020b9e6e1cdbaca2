"""Models of several named inputs and outputs, on every engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from folders import as_json
from pairs import FILES, HANDLER, INPUTS, write_models, write_pair

from vestal.errors import VestalError
from vestal.inprocess import Input, LoadedArchive
from vestal_handlers import engines
from vestal_handlers.engines.batches import BatchLimits
from vestal_handlers.engines.outputs import all_outputs
from vestal_handlers.engines.tensors import concatenate, stack, unstack

CPU = torch.device("cpu")
DOCS = Path(__file__).parents[2] / "docs"
# torch's own modules cause deprecation warnings while they export.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Models:
    """The folder of the saved models, and the plain module."""

    def __init__(self, folder):
        self.folder, self.module = folder, write_models(folder)

    def expected(self, ids, weights):
        with torch.inference_mode():
            outputs = self.module(torch.tensor([ids]), torch.tensor([weights]))
        return {name: each[0] for name, each in outputs.items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module", params=FILES)
def archive(request, models, tmp_path_factory):
    folder = write_pair(tmp_path_factory.mktemp("archive"), models.folder, FILES[request.param])
    with LoadedArchive(folder) as loaded:
        yield loaded


def row(start, weights=(1.0, 0.5, 0.25, 2.0)):
    return {"ids": [start, 1, 2, 3], "weights": list(weights)}


def assert_predicts(answer, models, sent):
    assert answer.status == 200, answer.body
    for name, expected in models.expected(**sent).items():
        assert torch.allclose(torch.tensor(answer.json()[name]), expected, atol=1e-4), name


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_every_engine_predicts_both_outputs_from_both_inputs(archive, models, count):
    rows = [row(start) for start in range(count)]
    answers = archive.predict([as_json(each) for each in rows])
    for answer, sent in zip(answers, rows, strict=True):
        assert_predicts(answer, models, sent)


def test_a_sample_that_does_not_fit_fails_alone(archive, models):
    wrong = [
        {"ids": [1, 2, 3], "weights": [1.0] * 4},
        {"ids": [1.5] * 4, "weights": [1.0] * 4},
        {"ids": [99] * 4, "weights": [1.0] * 4},
        7,
    ]
    if archive.handler.engine.describe()["name"] == "openvino":
        del wrong[2]  # OpenVINO does not check the indices of an embedding
    answers = archive.predict([as_json(each) for each in (row(1), *wrong, row(2))])
    assert [a.status for a in answers] == [200, *[500] * (len(wrong) - 1), 422, 200]
    assert_predicts(answers[0], models, row(1))
    assert_predicts(answers[-1], models, row(2))


def test_an_output_that_is_not_finite_is_named(archive):
    answers = archive.predict([as_json(row(1)), as_json(row(1, [0.0, 1.0, 1.0, 1.0]))])
    assert [answer.status for answer in answers] == [200, 500]
    assert answers[1].json()["message"] == (
        "the model's output 'total' is not finite (NaN or infinity)"
    )


def test_a_v2_request_of_two_tensors_gives_one_prediction_per_row(archive):
    tensors = [
        {"name": "ids", "shape": [2, 4], "datatype": "INT64", "data": [1, 1, 2, 3, 2, 1, 2, 3]},
        {"name": "weights", "shape": [2, 4], "datatype": "FP32", "data": [1.0] * 8},
    ]
    (answer,) = archive.predict([as_json({"inputs": tensors})])
    assert answer.json()["outputs"] == [
        {"name": "total", "shape": [2], "datatype": "FP64", "data": [0.0, 0.0]}
    ]


def test_describe_names_the_inputs(archive):
    (answer,) = archive.predict([Input({}, {"describe": "True"})])
    built_for = answer.json()["engine"]["built_for"]
    assert set(built_for["inputs"]) == {"ids", "weights"}
    assert built_for["inputs"]["ids"] in (None, [4])
    assert "input" not in built_for


@pytest.mark.parametrize("file", ["model.pth", "model.pt", "model.pt2", "model.onnx", "model.xml"])
@pytest.mark.parametrize("output", ["total", 1])
def test_one_output_is_served_where_the_task_takes_one(models, tmp_path, file, output):
    handler = HANDLER.replace("all_outputs = True", "all_outputs = False")
    folder = write_pair(tmp_path, models.folder, file, handler, output=output)
    with LoadedArchive(folder) as loaded:
        (answer,) = loaded.predict([as_json(row(1))])
    expected = models.expected(**row(1))["total"]
    assert answer.json() == pytest.approx(expected.item(), abs=1e-4)


def test_a_task_of_all_outputs_refuses_the_option_output(models, tmp_path):
    folder = write_pair(tmp_path, models.folder, "model.pt", output="total")
    with pytest.raises(VestalError, match=r"handler\.output .* needs all outputs of the model"):
        LoadedArchive(folder)


def test_one_tensor_for_a_model_of_two_inputs_fails_the_load(models, tmp_path):
    two = '{"ids": torch.zeros(4, dtype=torch.int64), "weights": torch.ones(4)}'
    handler = HANDLER.replace(two, "torch.ones(4)")
    for file in FILES.values():
        folder = write_pair(tmp_path / file, models.folder, file, handler)
        with pytest.raises(VestalError, match=r"takes 2 inputs \(\w+, \w+\), but got one tensor"):
            LoadedArchive(folder)


# --- The engines alone ----------------------------------------------------------------------------


@pytest.fixture(params=["model.pth", "model.pt", "model.pt2", "model.onnx", "model.xml"])
def engine(request, models):
    return engines.load(models.folder / request.param, CPU, all_outputs=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("ids"), r"the sample has the inputs weights; ids is missing"),
        (
            lambda b: b.update(more=b["ids"]),
            r"more is unknown\. The inputs of the model are ids, we",
        ),
    ],
)
def test_wrong_names_of_inputs_are_refused(engine, change, message):
    batch = dict(INPUTS)
    change(batch)
    with pytest.raises(ValueError, match=message), torch.inference_mode():
        engine(batch)


@pytest.mark.parametrize("file", ["model.pt2", "model.onnx", "model.xml"])
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"ids": INPUTS["ids"].double()},
            r"input 'ids' has the dtype torch\.float64, expected torch\.int64",
        ),
        (
            {"weights": torch.ones(3, 5)},
            r"input 'weights' has the shape \[5\] per sample, expected \[4\]",
        ),
        (
            {"weights": torch.ones(3, 4, 1)},
            r"input 'weights' has the shape \[4, 1\] per sample, expected \[4\]",
        ),
    ],
)
def test_shapes_and_dtypes_are_checked_against_the_file(models, file, inputs, message):
    engine = engines.load(models.folder / file, CPU, all_outputs=True)
    with pytest.raises(ValueError, match=message), torch.inference_mode():
        engine({**INPUTS, **inputs})


def test_inputs_are_cast_to_the_dtypes_of_the_model(engine):
    batch = {"ids": INPUTS["ids"].int(), "weights": INPUTS["weights"].double()}
    if engine.describe()["name"] == "eager":
        batch["weights"] = INPUTS["weights"]  # a state_dict does not tell its inputs' dtypes
    with torch.inference_mode():
        outputs = engine(batch)
    assert outputs["logits"].dtype == torch.float32


def test_bf16_returns_several_outputs_as_fp32(models):
    engine = engines.load(models.folder / "model.pth", CPU, "bf16", all_outputs=True)
    with torch.inference_mode():
        outputs = engine(INPUTS)
    assert {each.dtype for each in outputs.values()} == {torch.float32}


def test_optional_inputs_may_be_omitted_and_keyword_arguments_added(tmp_path):
    (tmp_path / "model.py").write_text(
        "import torch\n\n\nclass M(torch.nn.Linear):\n    def forward(self, x, y=None, **more):\n"
        "        x = sum(more.values(), x if y is None else x + y)\n"
        "        return super().forward(x), x\n\n\n"
        "def build():\n    return M(2, 2)\n"
    )
    module = torch.nn.Linear(2, 2)
    torch.save(module.state_dict(), tmp_path / "model.pth")
    engine = engines.load(tmp_path / "model.pth", CPU, all_outputs=True)
    ones = torch.ones(3, 2)
    with torch.inference_mode():
        for batch, total in ((ones, 1), ({"x": ones}, 1), ({"y": ones, "x": ones, "z": ones}, 3)):
            first, second = engine(batch)
            assert torch.equal(second, ones * total)
            assert torch.equal(first, module(ones * total))


def test_a_custom_engine_without_an_all_outputs_parameter_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("def load(artifact, device, precision):\n    ...\n")
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"load\(\) of the mine engine has no parameter all_outp"):
        engines.load(tmp_path / "model.pt", CPU, name="mine", all_outputs=True)


# --- Samples, batches, outputs --------------------------------------------------------------------


def test_all_outputs_are_a_tuple_or_a_dict_by_name():
    a, b = torch.ones(2, 1), torch.zeros(2)
    assert all_outputs((a, None, b), "model.pt") == (a, b)
    assert all_outputs({"a": a, "b": b, "loss": None}, "model.pt") == {"a": a, "b": b}
    assert all_outputs(a, "model.pt") is a
    with pytest.raises(ValueError, match=r"model\.pt returns a list without a tensor"):
        all_outputs([3], "model.pt")


def test_samples_are_stacked_and_outputs_are_split():
    samples = [{"a": torch.tensor(n), "b": torch.ones(2) * n} for n in range(3)]
    batch = stack(samples)
    assert {name: list(each.shape) for name, each in batch.items()} == {"a": [3], "b": [3, 2]}
    for sample, again in zip(samples, unstack(batch), strict=True):
        assert all(torch.equal(sample[name], again[name]) for name in sample)
    pairs = unstack((batch["a"], batch["b"]))
    assert [type(pair) for pair in pairs] == [tuple] * 3
    assert concatenate([batch, batch])["b"].shape == (6, 2)
    assert concatenate([(batch["a"],), (batch["a"],)])[0].tolist() == [0, 1, 2, 0, 1, 2]


def test_samples_with_different_keys_are_refused():
    one = torch.ones(1)
    with pytest.raises(ValueError, match="different keys for one batch: a and a, b"):
        stack([{"a": one}, {"a": one, "b": one}])


@pytest.mark.parametrize("other", [torch.tensor(1.0), torch.ones(3)])
def test_an_output_with_another_number_of_rows_is_refused(other):
    with pytest.raises(ValueError, match="expected the same number of rows in each"):
        unstack({"logits": torch.ones(2, 2), "loss": other})


def test_batch_limits_of_several_inputs_are_combined(tmp_path):
    limits = [BatchLimits(), BatchLimits(2, 8), BatchLimits(1, 4)]
    assert BatchLimits.shared(limits, tmp_path) == BatchLimits(2, 4)
    with pytest.raises(ValueError, match=r"inputs with different batch sizes \(1 and 3\)"):
        BatchLimits.shared([BatchLimits(1, 1), BatchLimits(3, 3)], tmp_path / "model.onnx")


def test_samples_of_different_shapes_are_computed_separately(models, tmp_path):
    folder = write_pair(tmp_path, models.folder, "model.pth")
    short = {"ids": [1, 2], "weights": [1.0, 0.5]}
    with LoadedArchive(folder) as loaded:
        answers = loaded.predict([as_json(each) for each in (row(1), short, row(2), short)])
    for answer, sent in zip(answers, (row(1), short, row(2), short), strict=True):
        assert_predicts(answer, models, sent)


def block_of(page, text):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if text in block]
    return block


def test_the_task_in_the_docs_predicts(models, tmp_path):
    block = block_of("concepts/requests.md", "class WeightedWords")
    folder = write_pair(tmp_path, models.folder, "model.onnx", block)
    with LoadedArchive(folder) as loaded:
        good, bad = loaded.predict([as_json(row(1)), as_json({"ids": [1], "weights": [1]})])
    logits, total = models.expected(**row(1)).values()
    assert good.json() == {"label": int(logits.argmax()), "total": pytest.approx(total.item())}
    assert bad.status == 422


def test_the_export_in_the_docs_runs(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, "model": models.module, **INPUTS}
    exec(block_of("concepts/engines.md", "pair.pt2"), names)
    assert names["outputs"]["logits"].shape == (3, 3)
