"""An archive whose files or options do not fit fails to load, with the reason."""

from __future__ import annotations

import pytest
import torch
from tiny_gpt2 import VOCABULARY, byte_level_bpe, tiny_model

from vestal.errors import VestalError
from vestal.inprocess import LoadedArchive


def refuse_to_load(folder, message):
    with pytest.raises(VestalError, match=message):
        LoadedArchive(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_fails_the_load(changed, name):
    folder = changed("")
    (folder / name).unlink()
    refuse_to_load(folder, rf"no {name} in .*, the folder of the weights")


def test_pickled_weights_are_not_loaded(changed):
    folder = changed("")
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model().state_dict(), folder / "pytorch_model.bin")
    refuse_to_load(folder, "did not load")


def test_missing_weights_fail_the_load(changed):
    from safetensors.torch import load_file, save_file

    folder = changed("")
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refuse_to_load(folder, "do not fit config.json.*h.1.mlp.c_fc.weight")


def test_the_tokenizer_of_another_model_fails_the_load(changed):
    folder = changed("")
    byte_level_bpe(VOCABULARY + 50).save(str(folder / "tokenizer.json"))
    refuse_to_load(
        folder, "tokenizer.json has a token 349.*ends at 299. Use the tokenizer.json of this model"
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("handler: {max_new_tokens: 300}", "max_new_tokens is 300, more than .*_limit, 256"),
        (
            "handler: {precision: bf16}",
            "precision: bf16 on cpu, only fp32 and int8",
        ),
        ("handler: {max_stops: 3}", "did you mean max_stop"),
    ],
)
def test_an_invalid_option_fails_the_load(changed, config, message):
    refuse_to_load(changed(config), message)
