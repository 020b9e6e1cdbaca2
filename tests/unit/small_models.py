"""Small models with random weights, for tests that do not need good predictions."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from vestal.archive.pack import pack
from vestal.recipes.recipe import load_recipe
from vestal.training.language import byte_level_bpe


def packed(project, model, version="1.0"):
    """Pack a model of the zoo with random weights, the same in every call."""
    torch.manual_seed(0)
    recipe = load_recipe(project, model)
    file = project.root / f"{model}.pth"
    torch.save(recipe.make(recipe.labels).state_dict(), file)
    return pack(project, model, version=version, weights=file).archive


def language_model(folder, context=32):
    """Save a GPT-2 of two small layers and its tokenizer as transformers does."""
    torch.manual_seed(0)
    tokenizer = byte_level_bpe(["the quick brown fox"], vocabulary=300)
    config = GPT2Config(
        vocab_size=300,
        n_positions=context,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).eval().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
