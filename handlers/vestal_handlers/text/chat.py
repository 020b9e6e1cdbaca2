"""The messages of a conversation as one prompt, by the chat template of the model's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from vestal_handlers.errors import InputError, first_line
from vestal_handlers.pretrained import load_tokenizer

ROLES = ("system", "user", "assistant")
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class ChatTemplate:
    """A template of transformers, which runs in a sandbox.

    Attributes:
        tokenizer: the tokenizer of transformers that has the template.
        special: the texts of special tokens.
    """

    tokenizer: Any
    special: Sequence[str]

    def render(self, messages: Messages) -> str:
        """Return the prompt, which ends where the assistant's next message begins.

        Raises:
            InputError: 422, a message contains a special token, with which it could pretend to be
                several messages; or the template refuses the messages.
        """
        for number, message in enumerate(messages):
            for token in self.special:
                if token in message["content"]:
                    raise InputError(
                        422,
                        f"item [{number}] of field 'messages' contains {token}, which separates "
                        "messages in the model's prompt; remove it",
                    )
        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise InputError(
                422, f"the model's chat template refuses these messages: {first_line(error)}"
            ) from None
        return text


def load_chat_template(folder: Path) -> ChatTemplate | None:
    """Load the template of a folder; None if it has none."""
    config = folder / "tokenizer_config.json"
    has_field = config.is_file() and "chat_template" in json.loads(config.read_text("utf-8"))
    if not has_field and not (folder / "chat_template.jinja").is_file():
        return None
    tokenizer = load_tokenizer(folder)
    return ChatTemplate(tokenizer, [token for token in tokenizer.all_special_tokens if token])
