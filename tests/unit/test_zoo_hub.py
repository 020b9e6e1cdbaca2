"""GPT-2's weights of the hub: the same loading, from a folder laid out as the hub lays it out."""

from __future__ import annotations

import pytest
import torch
from small_models import language_model
from transformers import AutoModelForCausalLM

from vestal.archive.pack import pack
from vestal.errors import VestalError
from vestal.mar.sample import read_sample
from vestal.model_folders import zoo
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal_handlers.model_files import load_module

pytestmark = pytest.mark.heavy


@pytest.fixture
def hub_at(monkeypatch):
    """Gives the hub another address, and the weights that the recipe then loads."""
    recipe = load_recipe(Project.here(), "gpt2")
    module = load_module(zoo() / "gpt2", "recipe")

    def at(address):
        monkeypatch.setattr(module, "HUB", str(address))
        return recipe.weights["gpt2"]

    return at


def test_what_is_loaded_computes_the_same(hub_at, tmp_path):
    weights = hub_at(language_model(tmp_path / "hub"))()
    ids = torch.tensor([weights.tokenizer.encode("the fox").ids])
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "hub").eval()
    with torch.inference_mode():
        assert torch.equal(weights.module.eval()(ids).logits, saved(ids).logits)


def test_it_is_packed_by_its_name(hub_at, tmp_path):
    hub_at(language_model(tmp_path / "hub"))
    archive = pack(Project(tmp_path), "gpt2", version="1.0", weights="gpt2").archive
    sample = read_sample(archive)
    assert sample is not None
    assert sample.answer["completion_tokens"] > 0


def test_no_hub_is_an_error_that_says_what_to_do(hub_at, tmp_path):
    with pytest.raises(VestalError, match=r"folder of a copy with --weights .*vestal train gpt2"):
        hub_at(tmp_path / "nothing")()
