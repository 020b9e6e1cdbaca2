"""A tiny GPT-2 with random weights, its byte-level BPE, and the archive of both."""

from __future__ import annotations

import json
import math
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vestal.inprocess import Input, LoadedArchive, Response
from vestal.mar.layout import MANIFEST

CONTEXT, VOCABULARY, EOS = 64, 300, 0
HANDLER = """
from vestal_handlers.tasks.text_generator import TextGenerator


class Handler(TextGenerator):
    pass
"""


def tiny_model(vocabulary: int = VOCABULARY) -> GPT2LMHeadModel:
    """A GPT-2 whose weights are so large that its logits differ clearly (deviation about 2)."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=32,
        n_positions=CONTEXT,
        vocab_size=vocabulary,
        initializer_range=0.3,
        bos_token_id=EOS,
        eos_token_id=EOS,
    )
    return GPT2LMHeadModel(config).eval()


def prompts_of(lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Random token ids, without that of the end of a text."""
    random = np.random.default_rng(seed)
    return [random.integers(1, VOCABULARY, size).tolist() for size in lengths]


def byte_level_bpe(vocabulary: int = VOCABULARY) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(topics.values())[:5], trainer)
    return tokenizer


class PoisonedModel(torch.nn.Module):
    """A model whose logits are NaN for a row whose last token is the poison."""

    def __init__(self, model: Any, poison: int) -> None:
        super().__init__()
        self.model, self.poison, self.device = model, poison, model.device

    def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:
        output = self.model(input_ids=input_ids, **options)
        output.logits[input_ids[:, -1] == self.poison] = math.nan
        return output


def write_generator(folder: Path) -> Path:
    """Write the unpacked archive into an existing folder."""
    tiny_model().save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(), eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    (folder / "handler.py").write_text(HANDLER)
    (folder / "MAR-INF").mkdir()
    model = {
        "modelName": "tiny",
        "modelVersion": "1.0",
        "handler": "handler.py",
        "serializedFile": "model.safetensors",
        "configFile": "model-config.yaml",
    }
    (folder / MANIFEST).write_text(json.dumps({"model": model}))
    (folder / "model-config.yaml").write_text("batchSize: 4\nhandler: {max_new_tokens: 8}\n")
    return folder


def send(loaded: LoadedArchive, *values: Any) -> list[Response]:
    """The responses to JSON values in one batch."""
    batch = [Input.raw(json.dumps(value).encode(), "application/json") for value in values]
    return loaded.predict(batch)


def prediction(loaded: LoadedArchive, value: Any) -> Any:
    """The prediction for a JSON value."""
    (found,) = send(loaded, value)
    assert found.status == 200, found.body
    return found.json()


def refusal(loaded: LoadedArchive, value: Any) -> tuple[int, str]:
    """The status and the message of the error for a JSON value."""
    (found,) = send(loaded, value)
    return found.status, found.json()["message"]
