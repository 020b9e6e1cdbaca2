"""The models of the zoo: their architectures, their data, what they reach."""

from __future__ import annotations

import functools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from torch import nn

from vestal.archive.pack import pack
from vestal.inprocess import Input, LoadedArchive
from vestal.mar.sample import read_sample
from vestal.model_folders import model_names, support_files, zoo
from vestal.project import Project
from vestal.recipes.recipe import Splits, load_recipe, load_transform
from vestal.training.loop import Learner, fit
from vestal.weights import saving
from vestal_handlers import engines
from vestal_handlers.model_files import load_module
from vestal_handlers.text import language_model

pytestmark = pytest.mark.heavy

HERE = Project.here()
SEVEN = ["fashion_mlp", "gpt2", "lenet5", "mnist", "regression", "resnet18", "simplenet"]


def test_the_zoo_has_every_model():
    assert set(SEVEN) <= set(model_names(HERE))


@functools.cache
def splits_of(name):
    """The splits of the data set that needs no download, read once for all tests."""
    recipe = load_recipe(HERE, name)
    return recipe.splits("digits" if "digits" in recipe.datasets else None)


@pytest.mark.parametrize("name", SEVEN)
def test_a_recipe_has_a_data_set_without_a_download(name):
    splits = splits_of(name)
    assert min(len(splits.train), len(splits.validation), len(splits.test)) > 10


def test_an_archive_has_only_the_files_that_a_worker_needs():
    assert set(support_files(zoo() / "gpt2")) == {"model.py"}
    assert set(support_files(zoo() / "simplenet")) == {"model.py", "transforms.py"}
    small = support_files(zoo() / "resnet18", "transforms_small")
    assert small["transforms.py"].name == "transforms_small.py"


def convolutions_of_mnist(state):
    def forward(x):
        x = torch.relu(nn.functional.conv2d(x, state["conv1.weight"], state["conv1.bias"]))
        x = torch.relu(nn.functional.conv2d(x, state["conv2.weight"], state["conv2.bias"]))
        x = nn.functional.max_pool2d(x, 2).flatten(1)
        x = torch.relu(x @ state["fc1.weight"].T + state["fc1.bias"])
        return x @ state["fc2.weight"].T + state["fc2.bias"]

    return forward


PLAIN = {
    "fashion_mlp": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    ),
    "lenet5": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    ),
    "regression": lambda: nn.Sequential(nn.Linear(3, 128), nn.ReLU(), nn.Linear(128, 1)),
    "simplenet": lambda: nn.Sequential(
        nn.Linear(2048, 256),
        nn.ReLU(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 2),
        nn.Softmax(1),
    ),
}
SHAPES = {
    "fashion_mlp": (1, 28, 28),
    "lenet5": (3, 32, 32),
    "regression": (3,),
    "simplenet": (2048,),
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_forward_pass_equals_the_plain_architecture(name):
    torch.manual_seed(0)
    module = load_recipe(HERE, name).make(None).eval()
    plain = PLAIN[name]()
    ours, places = module.state_dict(), plain.state_dict()
    assert [v.shape for v in ours.values()] == [v.shape for v in places.values()]
    plain.load_state_dict(dict(zip(places, ours.values(), strict=True)))
    inputs = torch.randn(4, *SHAPES[name])
    with torch.inference_mode():
        assert torch.equal(module(inputs), plain(inputs))


def test_the_mnist_network_equals_its_plain_architecture():
    torch.manual_seed(0)
    module = load_recipe(HERE, "mnist").make(None).eval()
    inputs = torch.randn(4, 1, 28, 28)
    with torch.inference_mode():
        expected = convolutions_of_mnist(module.state_dict())(inputs)
        assert torch.allclose(module(inputs), expected, atol=1e-6)


def test_resnet18_equals_torchvisions_with_one_class_per_label():
    recipe = load_recipe(HERE, "resnet18")
    assert len(recipe.labels) == 1000
    assert recipe.make(["cat", "dog"]).fc.out_features == 2
    weights = recipe.weights["random"]()
    assert "mean nothing" in weights.source
    assert weights.module.fc.out_features == 1000


# One input of each, as the model takes it.
INPUTS = {**SHAPES, "mnist": (1, 28, 28), "resnet18": (3, 64, 64)}


@pytest.mark.parametrize("name", SEVEN)
def test_a_loaded_artifact_has_the_same_outputs_as_the_module(name, tmp_path):
    torch.manual_seed(0)
    recipe = load_recipe(HERE, name)
    module = recipe.make(recipe.labels).eval()
    language = recipe.tokenizer is not None
    inputs = torch.randint(256, (3, 20)) if language else torch.randn(3, *INPUTS[name])
    artifacts = saving.save(module, recipe.formats, tmp_path, inputs[:2])
    saving.save_support(artifacts, zoo() / name, tmp_path, recipe.labels)
    for file in artifacts:
        if language:
            recipe.tokenizer(["to be or not to be"]).save(str(tmp_path / "tokenizer.json"))
            loaded = language_model.load(tmp_path / file, torch.device("cpu")).model
        else:
            loaded = engines.load(tmp_path / file, torch.device("cpu"))
        with torch.inference_mode():
            ours, theirs = module(inputs), loaded(inputs)
        if language:
            ours, theirs = ours.logits, theirs.logits
        if file.endswith((".pt2", ".onnx")):
            assert torch.allclose(theirs, ours, atol=1e-4), file
        else:
            assert torch.equal(theirs, ours), file


def test_named_weights_of_a_recipe_are_packed(tmp_path):
    packed = pack(Project(tmp_path), "resnet18", version="1.0", weights="random")
    assert "mean nothing" in packed.source
    with LoadedArchive(packed.archive, 1) as loaded:
        sample = read_sample(packed.archive)
        (answer,) = loaded.predict([Input.raw(sample.input, sample.content_type)])
    assert answer.json()["label"] in load_recipe(HERE, "resnet18").labels


@pytest.mark.slow
def test_packing_a_model_does_not_import_scikit_learn():
    own = [name for name in SEVEN if name != "gpt2"]  # transformers itself imports it
    code = (
        "import sys; from vestal.project import Project; from vestal.recipes.recipe import *\n"
        "import vestal.weights.import_weights\n"
        f"for name in {own}: load_recipe(Project.here(), name)\n"
        "assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_whole_modules_and_books_are_held_out():
    splits = splits_of("simplenet")
    parts = [set(part.texts) for part in (splits.train, splits.validation, splits.test)]
    assert not parts[0] & parts[2]
    assert not parts[0] & parts[1]
    for part in parts:
        assert {label for _, label in part} == {0, 1}
    module = load_module(zoo() / "simplenet", "training_data")
    train, validation, test = module._divide([str(n) for n in range(100)])
    assert (len(train), len(validation), len(test)) == (70, 10, 20)
    assert not set(train) & set(test)


def test_code_has_no_comments_and_docstrings():
    cut = load_module(zoo() / "simplenet", "training_data")._code
    source = '"""Long words about it."""\n' + "# a remark\nx = 1\n" * 20
    assert cut(source)[0].splitlines() == ["x = 1"] * 10


def test_prose_leaves_out_examples():
    cut = load_module(zoo() / "simplenet", "training_data")._prose
    prose = "Words that go on and on. " * 20
    assert cut(f"{prose}\n\n    x = 1\n    y = 2\n\nShort.") == [prose.strip()]


def test_a_regression_standardizes_with_the_moments_of_its_data():
    rows = load_module(zoo() / "regression", "recipe").everything().rows
    standard = load_transform(HERE, "regression", "transforms")(rows)
    assert standard.mean(0).abs().max() < 1e-3
    assert (standard.std(0, correction=0) - 1).abs().max() < 1e-3


@pytest.mark.slow
def test_five_folds_of_diabetes_are_as_good_as_linear_regression(tmp_path):
    recipe = load_recipe(HERE, "regression")
    transform = load_transform(HERE, "regression", "transforms")
    rows = load_module(zoo() / "regression", "recipe").everything()
    ours, linear = [], []
    folds = KFold(5, shuffle=True, random_state=0).split(np.arange(len(rows)))
    for number, (rest, test) in enumerate(folds):
        held = len(rest) // 8
        splits = Splits(rows.pick(rest[held:]), rows.pick(rest[:held]), rows.pick(test))
        torch.manual_seed(0)
        learner = Learner(recipe, recipe.make(None), None, 0)
        trained = fit(learner, splits, transform, tmp_path / str(number), epochs=30, device="cpu")
        ours.append(trained.test["r2"])
        line = LinearRegression().fit(rows.rows[rest].numpy(), rows.targets[rest].numpy())
        linear.append(r2_score(rows.targets[test].numpy(), line.predict(rows.rows[test].numpy())))
    assert np.mean(ours) > np.mean(linear) - 0.05, (ours, linear)


def test_the_bigram_baseline_equals_the_counts():
    perplexity = load_module(zoo() / "gpt2", "training_baseline").perplexity
    # Of two tokens that always alternate every next one is certain, but for the smoothing.
    assert perplexity([[0, 1] * 50], [[0, 1, 0, 1]], 2) == pytest.approx(1.025, abs=0.01)
    rng = np.random.default_rng(0)
    coins = [rng.integers(0, 2, 2000).tolist()]
    assert perplexity(coins, coins, 2) == pytest.approx(2.0, abs=0.02)


def test_passages_fit_the_context_of_the_language_model():
    recipe = load_recipe(HERE, "gpt2")
    splits = splits_of("gpt2")
    train = [splits.train[n][0] for n in range(len(splits.train))]
    tokenizer = recipe.tokenizer(train)
    config = recipe.make(None).config
    assert tokenizer.get_vocab_size() == config.vocab_size == 1024
    assert tokenizer.token_to_id("<|endoftext|>") == config.eos_token_id
    lengths = [len(tokenizer.encode(splits.test[n][0]).ids) for n in range(len(splits.test))]
    assert max(lengths) <= config.n_positions
    text = "Zwölf Boxkämpfer 🥊 jagen"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_perplexity_is_the_exponential_of_the_mean_loss():
    from vestal.training.language import perplexity

    assert perplexity([[math.log(0.5)] * 3, [math.log(0.125)]]) == pytest.approx(2**1.5)
