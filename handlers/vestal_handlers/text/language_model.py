"""Load a language model from the files that transformers saves, with its tokenizer.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer

from vestal_handlers.errors import InputError
from vestal_handlers.pretrained import load_model
from vestal_handlers.text.chat import ChatTemplate, Messages, load_chat_template
from vestal_handlers.text.int8_weights import quantize
from vestal_handlers.text.stops import REPLACEMENT
from vestal_handlers.text.tokens import check_unicode


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model and its tokenizer.

    Attributes:
        model: a model of transformers, in eval mode; activations are fp32.
        precision: of its weights: fp32 or int8.
        parameters: their number.
        context: the maximum number of tokens.
        eos: the token ids that end a text.
        start: the first token of an empty text: the beginning-of-text token or, for models without
            one (GPT-2), the end-of-text token; None if there is neither.
        chat: the template for messages; None if the model has none.
    """

    model: Any
    tokenizer: Tokenizer
    context: int
    eos: frozenset[int]
    start: int | None
    chat: ChatTemplate | None = None
    precision: str = "fp32"
    parameters: int = 0

    def message_tokens(self, messages: Messages) -> list[int]:
        """Token ids of a conversation, up to the beginning of the next answer.

        Raises:
            InputError: 400 not Unicode, 422 the messages do not fit the model's template.
        """
        for message in messages:
            check_unicode(message["content"], "the message")
        if self.chat is None:
            raise InputError(422, "field 'messages' needs a chat model: this one has no template")
        ids: list[int] = self.tokenizer.encode(
            self.chat.render(messages), add_special_tokens=False
        ).ids
        return ids

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, at least one; special tokens written in it are recognized.

        Raises:
            InputError: 400 not Unicode, 422 no part of the text is in the vocabulary.
        """
        check_unicode(text, "the prompt")
        ids: list[int] = self.tokenizer.encode(text).ids
        if not ids and self.start is not None and not text:
            ids = [self.start]
        if not ids:
            what = "no part of it is in the model's vocabulary" if text else "it is empty"
            raise InputError(422, f"the prompt has no tokens: {what}")
        return ids

    def text(self, ids: list[int]) -> str:
        """The text of tokens, without special ones and without an incomplete last character."""
        return self.decode(ids).rstrip(REPLACEMENT)

    def decode(self, ids: list[int]) -> str:
        """The text of tokens, without special ones; incomplete characters are U+FFFD."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def piece(self, token: int) -> str:
        """The text of one token; incomplete characters are U+FFFD."""
        text: str = self.tokenizer.decode([token], skip_special_tokens=False)
        return text

    def describe(self) -> dict[str, Any]:
        return {
            "name": "transformers",
            "precision": self.precision,
            "device": str(self.model.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "architecture": type(self.model).__name__,
            "parameters": self.parameters,
            "vocabulary": self.model.config.vocab_size,
            "context": self.context,
        }


def load(artifact: Path, device: torch.device, precision: str = "fp32") -> LanguageModel:
    """Load the folder of `artifact`, its model.safetensors or the index of its shards.

    Nothing is unpickled, no code in the folder is run, and no hub is contacted.

    Raises:
        ValueError: a precision other than fp32 and int8 (of the weights, on a CPU), or weights or a
            tokenizer that do not fit the architecture.
        OSError: a file is missing.
    """
    possible = ("fp32", "int8") if device.type == "cpu" else ("fp32",)
    if precision not in possible:
        raise ValueError(
            f"text generation does not support handler.precision: {precision} on {device.type}, "
            f"only {' and '.join(possible)}"
        )
    folder = artifact if artifact.is_dir() else artifact.parent
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"no tokenizer.json in {folder}, the folder of the weights")
    model = load_model(folder, "AutoModelForCausalLM")
    parameters = model.num_parameters()
    if precision == "int8":
        quantize(model)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = model.config.vocab_size
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= vocabulary:
        raise ValueError(
            f"tokenizer.json has a token {highest}, but the model's vocabulary ends at "
            f"{vocabulary - 1}. Use the tokenizer.json of this model"
        )
    context = getattr(model.config, "max_position_embeddings", None)
    if not context:
        raise ValueError(f"{type(model).__name__} has no max_position_embeddings in config.json")
    eos = _ids(model.generation_config.eos_token_id, vocabulary)
    start = [*_ids(model.generation_config.bos_token_id, vocabulary), *sorted(eos)]
    return LanguageModel(
        model=model.to(device),
        tokenizer=tokenizer,
        context=context,
        eos=eos,
        start=start[0] if start else None,
        chat=load_chat_template(folder),
        precision=precision,
        parameters=parameters,
    )


def _ids(special: int | list[int] | None, vocabulary: int) -> frozenset[int]:
    """The special tokens in the vocabulary; a small model's config may have ids of a larger one."""
    ids = special if isinstance(special, list) else [special]
    return frozenset(token for token in ids if token is not None and 0 <= token < vocabulary)
